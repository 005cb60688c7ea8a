"""Image metrics: known answers on pictures whose repetition, seams and text are known."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from bench import extractors
from bench.errors import UsageError
from bench.metrics import GSD, GSDLPIPS, AdjacentSSIM, CLIPScore, IntraLPIPS
from bench.metrics.alignment import clip_score
from bench.metrics.coherence import adjacent, intra_lpips, seam_tv, ssim
from bench.metrics.gsd import diversity, gsd_dino, gsd_lpips, steps
from bench.metrics.numbers import cosine
from bench.metrics.sample import Sample
from bench.registry import find, names
from bench.types import Canvas, Prompt
from bench.views import boxes
from tests.support import tiny
from tests.support.close import near, products


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    made = {"dino": tiny.vit, "clip": tiny.clip, "lpips": tiny.lpips}
    return {role: extractors.load(f"{role}@{make(root / role)}") for role, make in made.items()}


def measured(metric, nets, rgb, text="a calm sea", loop=False, view=None, **knobs):
    canvas = Canvas(rgb.shape[1], rgb.shape[0], loop)
    sample = Sample(rgb, Prompt("p", text), canvas, extractor=nets[metric.extractor], view=view or metric.view)
    return metric.fn(sample, **metric.resolve(knobs))


def whole(values):
    return {v.name: v.value for v in values if v.index is None}


def curve(values, name):
    return {v.index: v.value for v in values if v.name == name and v.index is not None}


def scroll(n=4, seed=0):
    return np.concatenate(tiny.pictures(n, seed=seed), axis=1)


def tiled(n=4):
    return np.concatenate(tiny.pictures(1) * n, axis=1)


def test_a_tiled_picture_is_one_repetition_and_a_varied_one_is_not(nets):
    same, varied = whole(measured(gsd_dino, nets, tiled())), whole(measured(gsd_dino, nets, scroll()))
    assert same == pytest.approx({"gsd-dino": 1, "gsd-dino-distant": 1, "gsd-dino-worst": 1}, abs=1e-6)
    assert varied["gsd-dino"] < 1 - 1e-5
    assert whole(measured(gsd_lpips, nets, tiled()))["gsd-lpips"] == pytest.approx(0, abs=1e-6)
    assert whole(measured(gsd_lpips, nets, scroll()))["gsd-lpips"] > 1e-3


def test_the_worst_clone_is_found_among_the_distant_pairs(nets):
    a, b, c, d = tiny.pictures(4)
    found = measured(gsd_dino, nets, np.concatenate([a, b, c, a], axis=1))
    assert whole(found)["gsd-dino-worst"] == pytest.approx(1, abs=1e-6)
    neighbours = whole(measured(gsd_dino, nets, np.concatenate([a, a, c, d], axis=1)))
    assert neighbours["gsd-dino-worst"] < 1 - 1e-6  # neighbouring twins are not distant


def test_the_lag_curve_shows_the_period_of_a_repetition(nets):
    a, b = tiny.pictures(2)
    lags = curve(measured(gsd_lpips, nets, np.concatenate([a, b] * 3, axis=1)), "gsd-lpips-lag")
    assert sorted(lags) == [1, 2, 3, 4, 5]
    assert lags[2] == lags[4] == pytest.approx(0, abs=1e-6)
    assert min(lags[1], lags[3], lags[5]) > 1e-3


@pytest.mark.parametrize(
    ("tiles", "loop", "far"),
    [(8, False, 4), (7, False, 4), (8, True, 4), (7, True, 3), (2, False, 1), (3, True, 1)],
)
def test_distant_pairs_are_half_the_panorama_apart(tiles, loop, far):
    canvas = Canvas(32 * tiles, 32, loop)
    across, down, threshold = steps(boxes("tiles", canvas), canvas)
    assert threshold == far
    assert across.max() == (tiles // 2 if loop else tiles - 1)
    assert across[0, tiles - 1] == (1 if loop else tiles - 1)
    assert not down.any()


def test_summaries_of_a_known_matrix_are_the_means_by_hand():
    canvas = Canvas(128, 32)
    matrix = np.zeros((4, 4))
    matrix[np.triu_indices(4, 1)] = [1, 2, 3, 4, 5, 6]  # 01 02 03 12 13 23
    found = diversity(matrix + matrix.T, boxes("tiles", canvas), canvas, worst="min")
    assert found == {"all": 3.5, "distant": (2 + 3 + 5) / 3, "worst": 2, "lag": {1: (1 + 4 + 6) / 3, 2: 3.5, 3: 3}}


def test_grids_measure_distance_in_both_directions():
    canvas = Canvas(64, 64)
    across, down, far = steps(boxes("tiles:16", canvas), canvas)
    assert across[0, 3] == 3
    assert down[0, 12] == 3
    assert far == 2


def test_intra_lpips_and_gsd_lpips_share_a_kernel_and_differ_in_direction(nets):
    rgb = scroll()
    assert whole(measured(intra_lpips, nets, rgb))["intra-lpips"] == pytest.approx(
        whole(measured(gsd_lpips, nets, rgb))["gsd-lpips"], rel=1e-9
    )
    assert intra_lpips.values["intra-lpips"] == "lower"
    assert gsd_lpips.values["gsd-lpips"] == "higher"
    assert (IntraLPIPS.higher_is_better, GSDLPIPS.higher_is_better) == (False, True)


def test_adjacent_lpips_looks_at_neighbours_only(nets):
    a, b = tiny.pictures(2)
    alternating = whole(measured(adjacent, nets, np.concatenate([a, b, a, b], axis=1)))
    pair = nets["lpips"].distances([a, b])[0, 1]
    assert alternating["adjacent-lpips"] == near(float(pair), products(nets["lpips"].model), size=2)
    assert whole(measured(intra_lpips, nets, np.concatenate([a, b, a, b], axis=1)))["intra-lpips"] < 0.9 * pair


def test_a_loop_adds_the_pair_across_the_edge(nets):
    a, b, c, _ = tiny.pictures(4)
    rgb = np.concatenate([a, b, c, a], axis=1)
    open_, loop = (whole(measured(adjacent, nets, rgb, loop=loop))["adjacent-lpips"] for loop in (False, True))
    # The pair across the edge is a clone at distance 0.
    assert loop == near(open_ * 3 / 4, products(nets["lpips"].model), size=2)


def test_seams_are_told_from_texture():
    rng = np.random.default_rng(0)
    flat = np.full((32, 128, 3), 100, np.uint8)
    seams = flat.copy()
    seams[:, 32:64] = 151
    assert seam_tv(seams, 32) == pytest.approx((51 / 255 * 2 / 3, 0))
    noise = rng.integers(0, 256, (32, 128, 3), dtype=np.uint8)
    border, elsewhere = seam_tv(noise, 32)
    assert border > 0.25
    assert abs(border - elsewhere) < 0.05
    assert seam_tv(seams.swapaxes(0, 1), 32) == seam_tv(seams, 32)
    assert seam_tv(flat[:, :32], 32) is None
    assert seam_tv(seams[:, :32], 32, loop=True) == (0, 0)


def test_known_seam_periods_can_be_named(nets):
    rgb = np.full((32, 128, 3), 100, np.uint8)
    rgb[:, 16:48] = 151
    assert whole(measured(adjacent, nets, rgb))["adjacent-tv"] == 0
    assert whole(measured(adjacent, nets, rgb, period=16))["adjacent-tv-excess"] > 0.02


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise():
    a = np.stack(tiny.pictures(2))
    noisy = np.clip(a + np.random.default_rng(0).normal(0, 30, a.shape), 0, 255).astype(np.uint8)
    assert ssim(a, a) == pytest.approx(1)
    assert (ssim(a, noisy) < 0.95).all()


def test_clip_score_is_a_hundred_times_the_cosine_of_every_tile(nets):
    rgb, text = scroll(3), "a calm sea"
    values = measured(clip_score, nets, rgb, text)
    tiles, words = nets["clip"].embed(np.split(rgb, 3, axis=1)), nets["clip"].embed_text([text])[0]
    by_hand = 100 * tiles.astype(float) @ words

    def same(expected):  # a hundred times a product of unit features
        return near(expected, products(nets["clip"].model), size=100)

    assert list(curve(values, "clip-score").values()) == same(list(by_hand))
    assert whole(values)["clip-score"] == same(by_hand.mean())
    assert whole(values)["clip-score-worst"] == same(by_hand.min())
    other = whole(measured(clip_score, nets, rgb, "three houses"))["clip-score"]
    assert other != same(by_hand.mean())


@pytest.mark.parametrize("metric", [gsd_dino, gsd_lpips, intra_lpips, adjacent, clip_score], ids=lambda m: m.name)
@pytest.mark.parametrize("grey", [0, 255])
def test_degenerate_pictures_get_finite_numbers(metric, grey, nets):
    rgb = np.full((32, 128, 3), grey, np.uint8)
    for value in measured(metric, nets, rgb):
        assert value.value is not None
        assert np.isfinite(value.value)


@pytest.mark.parametrize("shape", [(1, 256), (4, 4), (32, 32)])
def test_pictures_with_one_crop_have_no_pairs_and_say_so(nets, shape):
    rgb = np.full((*shape, 3), 90, np.uint8)
    for metric in (gsd_dino, gsd_lpips, intra_lpips, adjacent):
        assert {v.value for v in measured(metric, nets, rgb)} == {None}
    assert whole(measured(clip_score, nets, rgb))["clip-score"] is not None


def test_vectors_without_a_direction_make_their_pairs_undefined_not_zero():
    assert np.isnan(cosine(np.array([[0.0, 0.0], [1.0, 0.0]]))[0, 1])
    canvas = Canvas(64, 32)
    found = diversity(cosine(np.array([[np.nan, 0.0], [1.0, 0.0]])), boxes("tiles", canvas), canvas, worst="max")
    assert np.isnan(found["all"])


def test_every_value_a_metric_returns_is_declared_with_its_direction(nets):
    for metric in (gsd_dino, gsd_lpips, intra_lpips, adjacent, clip_score):
        assert {v.name for v in measured(metric, nets, scroll())} == set(metric.values)


def test_the_classes_average_what_the_harness_records(nets):
    first, second = scroll(4, seed=1), scroll(4, seed=2)
    gsd = GSD(nets["dino"])
    gsd.update(torch.from_numpy(np.stack([first, second])).permute(0, 3, 1, 2))
    expected = [whole(measured(gsd_dino, nets, rgb))["gsd-dino"] for rgb in (first, second)]
    terms = products(nets["dino"].model)
    assert float(gsd.compute()) == near(np.mean(expected), terms, size=1)
    one_by_one = GSD(nets["dino"])
    for rgb in (second, first):
        one_by_one.update([rgb])
    assert float(one_by_one.compute()) == near(float(gsd.compute()), terms, size=1)
    assert gsd.higher_is_better is False


def test_the_classes_take_floats_refuse_bad_ranges_and_count_what_is_undefined(nets):
    rgb = torch.from_numpy(scroll()).permute(2, 0, 1)[None]
    by_bytes, by_floats = AdjacentSSIM(nets["lpips"]), AdjacentSSIM(nets["lpips"])
    by_bytes.update(rgb)
    by_floats.update(rgb / 255)
    assert float(by_bytes.compute()) == float(by_floats.compute())
    with pytest.raises(UsageError, match=r"\[0, 1\]"):
        by_floats.update(rgb.float())
    with pytest.raises(UsageError, match="nan"):
        by_floats.update(torch.full((1, 3, 32, 64), float("nan")))
    by_bytes.reset()
    by_bytes.update([np.zeros((32, 32, 3), np.uint8)])
    assert int(by_bytes.undefined) == 1
    assert np.isnan(float(by_bytes.compute()))


def test_clip_score_as_a_class_wants_one_text_a_picture(nets):
    score = CLIPScore(nets["clip"], view="whole")
    score.update([scroll()], ["a calm sea"])
    expected = whole(measured(clip_score, nets, scroll(), view="whole"))["clip-score"]
    assert float(score.compute()) == near(max(expected, 0), products(nets["clip"].model), size=100)
    with pytest.raises(UsageError, match="one text a picture"):
        score.update([scroll()], "a calm sea")


def test_an_extractor_of_another_role_is_refused(nets):
    with pytest.raises(UsageError, match="role dino"):
        GSD(nets["lpips"])


def test_importing_the_metrics_and_their_adapters_does_not_import_torch():
    code = (
        "import sys, bench.metrics, bench.metrics.sample\n"
        "from bench.metrics import gsd, coherence, alignment, distribution\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert isinstance(GSD, type)  # which is opened when asked for, and a Metric of torchmetrics
    assert GSD.higher_is_better is False


def test_the_metrics_are_registered_under_their_names():
    ours = ["gsd-dino", "gsd-lpips", "intra-lpips", "adjacent", "clip-score", "fid", "kid"]
    assert set(ours) <= set(names("metrics"))
    assert [find("metrics", name).name for name in ours] == ours
