"""FID, KID and IS equal the reference implementations, for reasons that would break with the usual mistakes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.metrics import FID, IS, KID, FDDino, KDDino, RelativeFID
from bench.metrics.distribution import (
    fd_dino,
    fid,
    frechet_distance,
    inception_score,
    inception_scores,
    kd_dino,
    kernel_distance,
    kernel_distance_subsets,
    kid,
    relative_fid,
)

# Features (300, 64) and (400, 64), logits (320, 50), and what torch-fidelity 0.4.0 and clean-fid 0.1.35 make of them in
# float64.
GOLDEN = Path(__file__).parent / "goldens" / "metrics" / "fid_kid.npz"
FID_TORCH_FIDELITY = 15.232195619904473
FID_CLEAN_FID = 15.232195619904019
KID_TORCH_FIDELITY = (0.7908119346201097, 0.466681059872084)  # 10 subsets of 100, seed 2020
KID_CLEAN_FID = 1.0064265389470044  # the same subsets and size, other draws
KID_CLEAN_FID_DEFAULT = 0.8619031128424132  # 100 subsets of 300
IS_SHUFFLED = (7.557297614803287, 0.5229002801571614)  # 10 splits, seed 2020
IS_UNSHUFFLED = (7.414977239183402, 0.7540853763030168)
IS_WHOLE = 9.429405446097581
CLOSE = 1e-6


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as data:
        return data["features_1"].astype(np.float64), data["features_2"].astype(np.float64)


@pytest.fixture(scope="module")
def logits():
    with np.load(GOLDEN) as data:
        return data["logits"].astype(np.float64)


def test_fid_equals_torch_fidelity_and_clean_fid(golden):
    ours = frechet_distance(*golden)
    assert ours == pytest.approx(FID_TORCH_FIDELITY, rel=1e-9)
    assert ours == pytest.approx(FID_CLEAN_FID, rel=1e-9)


def test_fid_with_biased_covariances_would_be_told_apart(golden):
    x, y = golden
    biased = [c - c.mean(0) for c in (x, y)]
    biased = [c * np.sqrt((len(c) - 1) / len(c)) + m.mean(0) for c, m in zip(biased, (x, y))]
    assert frechet_distance(*biased) != pytest.approx(FID_TORCH_FIDELITY, rel=CLOSE)


def test_kid_over_subsets_equals_torch_fidelity(golden):
    mean, std = kernel_distance_subsets(*golden, subsets=10, size=100, seed=2020)
    assert mean == pytest.approx(KID_TORCH_FIDELITY[0], rel=CLOSE)
    assert std == pytest.approx(KID_TORCH_FIDELITY[1], rel=CLOSE)


def test_kid_over_subsets_drawn_the_other_way_round_equals_clean_fid(golden):
    x, y = golden
    assert kernel_distance_subsets(x, y, 10, 100, 2020, "clean-fid")[0] == pytest.approx(KID_CLEAN_FID, rel=CLOSE)
    default = kernel_distance_subsets(x, y, 100, 1000, 2020, "clean-fid")[0]  # takes what there is: 300 rows
    assert default == pytest.approx(KID_CLEAN_FID_DEFAULT, rel=CLOSE)
    assert kernel_distance_subsets(x, y, 10, 100, 2020)[0] != pytest.approx(KID_CLEAN_FID, rel=CLOSE)
    assert kernel_distance_subsets(y, x, 10, 100, 2020, "clean-fid")[0] != pytest.approx(KID_CLEAN_FID, rel=CLOSE)
    found = kid.fn(x, y, subsets=10, subset_size=100, order="clean-fid")
    assert found["kid-subset-mean"] == pytest.approx(KID_CLEAN_FID, rel=CLOSE)


def test_the_inception_score_equals_torch_fidelity(logits):
    shuffled = inception_scores(logits, 10, seed=2020)
    assert (shuffled.mean(), shuffled.std()) == pytest.approx(IS_SHUFFLED, rel=1e-9)
    plain = inception_scores(logits, 10)
    assert (plain.mean(), plain.std()) == pytest.approx(IS_UNSHUFFLED, rel=1e-9)
    assert plain.mean() != pytest.approx(IS_SHUFFLED[0], rel=1e-3)
    found = inception_score.fn(logits, splits=10)
    assert found["is"] == pytest.approx(IS_WHOLE, rel=1e-9)
    assert found["is-split-mean"] == pytest.approx(IS_SHUFFLED[0], rel=1e-9)
    assert found["is-split-std"] == pytest.approx(IS_SHUFFLED[1], rel=1e-9)
    assert set(inception_score.fn(logits)) == {"is"}


def test_the_inception_score_lies_between_one_and_the_number_of_classes(logits):
    assert inception_scores(np.zeros((7, 5)))[0] == pytest.approx(1)
    assert inception_scores(1000 * np.eye(5))[0] == pytest.approx(5)  # sure of each, unsure of all: five classes
    assert inception_scores(1000 * np.eye(5)[[0, 0, 0]])[0] == pytest.approx(1)
    rng = np.random.default_rng(0)
    assert inception_scores(rng.permutation(logits))[0] == pytest.approx(IS_WHOLE, rel=1e-9)
    assert inception_scores(logits + 7)[0] == pytest.approx(IS_WHOLE, rel=1e-9)


def test_relative_fid_is_the_difference_of_two_fids_of_equal_size(golden):
    x, y = golden
    ours, base = x[:100], x[100:300]
    found = relative_fid.fn(ours, y, base)
    assert found["relative-fid-pictures"] == frechet_distance(ours, y)
    half = base[np.lexsort(base.T[::-1])][::2]
    assert found["relative-fid-base"] == pytest.approx(frechet_distance(half, y), rel=1e-12)
    shuffled = relative_fid.fn(ours, y, base[::-1])
    assert shuffled == found != relative_fid.fn(ours, y, base[::2])  # which rows are taken is no matter of their order
    assert found["relative-fid"] == found["relative-fid-pictures"] - found["relative-fid-base"]
    whole = frechet_distance(ours, y) - frechet_distance(base, y)
    assert found["relative-fid"] != pytest.approx(whole, rel=1e-2)  # more pictures, lower FID
    assert relative_fid.fn(ours, y, ours)["relative-fid"] == 0
    with pytest.raises(UsageError, match="200 of panoramas, only 100 of their base network"):
        relative_fid.fn(base, y, ours)


def test_the_distances_of_dino_features_are_the_same_functions(golden):
    assert fd_dino.fn(*golden) == {"fd-dino": frechet_distance(*golden)}
    assert kd_dino.fn(*golden) == {"kd-dino": kernel_distance(*golden)}
    assert (fd_dino.extractor, kd_dino.extractor) == ("dino", "dino")


def test_kid_on_all_rows_is_what_the_subsets_scatter_around(golden):
    mean, std = kernel_distance_subsets(*golden, subsets=200, size=150, seed=1)
    assert abs(kernel_distance(*golden) - mean) < 4 * std / np.sqrt(200) + 0.02


def test_the_harness_and_the_classes_give_the_functions_numbers(golden):
    x, y = golden
    module_fid, module_kid = FID(), KID()
    for module in (module_fid, module_kid):
        for part in np.array_split(x, 7):
            module.update(torch.from_numpy(part), real=False)
        for part in np.array_split(y, 3):
            module.update(torch.from_numpy(part), real=True)
    dino = FDDino(), KDDino()
    for module in dino:
        module.update(x, real=False)
        module.update(y, real=True)
    assert [float(m.compute()) for m in dino] == [float(module_fid.compute()), float(module_kid.compute())]
    assert float(module_fid.compute()) == pytest.approx(fid.fn(x, y)["fid"], rel=1e-12)
    assert float(module_kid.compute()) == pytest.approx(kid.fn(x, y)["kid"], rel=1e-12)
    assert fid.fn(x, y)["fid"] == frechet_distance(x, y)
    found = kid.fn(x, y, subsets=10, subset_size=100)
    assert found["kid-subset-mean"] == pytest.approx(KID_TORCH_FIDELITY[0], rel=CLOSE)


def test_the_scores_of_one_set_or_of_three_are_classes_too(golden, logits):
    x, y = golden
    score, relative = IS(splits=10), RelativeFID()
    for part in np.array_split(logits, 5):
        score.update(torch.from_numpy(part))
    assert float(score.compute()) == pytest.approx(IS_WHOLE, rel=1e-9)
    assert IS.higher_is_better
    relative.update(x[:100])
    relative.update(y, of="reference")
    with pytest.raises(UsageError, match="no rows of base yet"):
        relative.compute()
    relative.update(x[100:], of="base")
    assert float(relative.compute()) == pytest.approx(relative_fid.fn(x[:100], y, x[100:])["relative-fid"], rel=1e-12)
    with pytest.raises(UsageError, match="did you mean 'base'"):
        relative.update(x, of="bases")


def test_fid_of_two_gaussians_approaches_its_closed_form():
    rng = np.random.default_rng(0)
    n, d = 40_000, 4
    x, y = rng.standard_normal((n, d)), 2 * rng.standard_normal((n, d)) + 3
    assert frechet_distance(x, y) == pytest.approx(d * 9 + d * (2 - 1) ** 2, rel=0.02)


def test_fid_survives_covariances_of_low_rank():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((10, 30)), rng.standard_normal((12, 30)) + 0.5
    root = sqrtm(np.cov(x.T) @ np.cov(y.T) + 1e-14 * np.eye(30))
    naive = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root.real)
    assert frechet_distance(x, y) == pytest.approx(naive, rel=1e-4)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_torch_fidelity_is_lower_within_a_known_bound_where_rows_are_fewer_than_dimensions():
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    rng = np.random.default_rng(5)
    n, d, u = 24, 256, 2.0**-53
    x = rng.gamma(2, 0.3, (n, d))
    shares = []
    for y in (x + 0.03 * rng.standard_normal((n, d)), rng.gamma(2.2, 0.3, (n, d))):
        first, second = ((rows - rows.mean(0)) / np.sqrt(n - 1) for rows in (x, y))
        cross = first @ second.T  # its singular values are the roots of all eigenvalues that are not zero, and of one 0
        roots = np.sqrt(np.linalg.eigvalsh(cross @ cross.T)[1:]).sum()
        exact = ((x.mean(0) - y.mean(0)) ** 2).sum() + (first**2).sum() + (second**2).sum() - 2 * roots
        assert frechet_distance(x, y) == pytest.approx(exact, rel=1e-10)
        stats = [fid_features_to_statistics(torch.from_numpy(rows)) for rows in (x, y)]
        theirs = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
        bound = 2 * (d - (n - 1)) * np.sqrt(u * np.prod([np.linalg.norm(s["sigma"], 2) for s in stats]))
        assert 0 < exact - theirs < bound
        shares.append((exact - theirs) / exact)
    assert shares[0] > 1e-5  # the bound is absolute: of a small distance it is a large part ...
    assert shares[1] < 1e-6  # ... and of a large one a small part


def test_kid_is_the_textbook_sum():
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((5, 3)), rng.standard_normal((4, 3)) + 1

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    xx = np.mean([k(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(4) for j in range(4) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(xx + yy - 2 * xy, rel=1e-12)


def test_kid_of_one_distribution_is_zero_on_average_and_fid_is_not():
    rng = np.random.default_rng(3)
    pairs = [rng.standard_normal((2, 60, 6)) for _ in range(40)]
    kids, fids = zip(*((kernel_distance(a, b), frechet_distance(a, b)) for a, b in pairs))
    assert abs(np.mean(kids)) < 4 * np.std(kids) / np.sqrt(40)
    assert min(fids) > 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 20), st.integers(2, 20), st.integers(1, 8))
def test_distances_do_not_depend_on_the_order_of_rows(seed, n, m, d):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, d)), rng.standard_normal((m, d)) * 2
    shuffled = rng.permutation(x), rng.permutation(y)
    for distance in (frechet_distance, kernel_distance):
        assert distance(*shuffled) == pytest.approx(distance(x, y), rel=1e-9, abs=1e-9)
        assert distance(y, x) == pytest.approx(distance(x, y), rel=1e-9, abs=1e-9)


def test_a_kernel_larger_than_a_chunk_is_summed_completely(monkeypatch, golden):
    whole = kernel_distance(*golden)
    monkeypatch.setattr("bench.metrics.distribution.CHUNK", 37)
    assert kernel_distance(*golden) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_too_few_rows_and_broken_rows_are_refused_with_numbers(distance):
    x = np.ones((5, 3))
    with pytest.raises(UsageError, match="n=1 and m=5"):
        distance(x[:1], x)
    with pytest.raises(UsageError, match="one width"):
        distance(x, np.ones((5, 4)))
    broken = x.copy()
    broken[3, 1] = np.nan
    with pytest.raises(UsageError, match="1 of 5 rows are not finite, first row 3"):
        distance(x, broken)


def test_subsets_larger_than_the_sample_are_refused():
    with pytest.raises(UsageError, match="at least 1000"):
        kernel_distance_subsets(np.ones((50, 2)), np.ones((2000, 2)))
    with pytest.raises(UsageError, match="did you mean 'clean-fid'"):
        kernel_distance_subsets(np.ones((50, 2)), np.ones((50, 2)), order="cleanfid")
    with pytest.raises(UsageError, match="call update"):
        FID().compute()
    with pytest.raises(UsageError, match="lower splits"):
        inception_scores(np.zeros((3, 5)), 10)
    with pytest.raises(UsageError, match="not finite"):
        inception_scores(np.full((3, 5), np.nan))
