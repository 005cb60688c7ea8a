"""PanoLlama's columns as this project reads them: known answers, and nothing computed in two ways."""

import numpy as np
import pytest

from bench import extractors
from bench.metrics import PanoramaTV, SeamTV
from bench.metrics.coherence import adjacent, column_steps, seam_tv, ssim
from bench.metrics.panollama import panollama, panorama_tv
from bench.metrics.sample import Sample
from bench.types import Canvas, Prompt
from tests.support import tiny


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return extractors.load(f"lpips@{tiny.lpips(tmp_path_factory.mktemp('weights') / 'tiny-lpips')}")


def measured(metric, net, rgb, loop=False, **knobs):
    canvas = Canvas(rgb.shape[1], rgb.shape[0], loop)
    sample = Sample(rgb, Prompt("p", ""), canvas, extractor=net, view="tiles")
    return {v.name: v.value for v in metric.fn(sample, **metric.resolve(knobs))}


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_neighbours_and_seams_are_those_of_the_adjacent_metric(net):
    rgb = np.concatenate(tiny.pictures(5), axis=1)
    for knobs in ({}, {"period": 20}):
        old, new = measured(adjacent, net, rgb, **knobs), measured(panollama, net, rgb, **knobs)
        assert new["pl-lpips-adj"] == old["adjacent-lpips"]
        assert new["pl-ssim-adj"] == old["adjacent-ssim"]
        assert new["pl-tv-seam"] == old["adjacent-tv-excess"]
        assert new["pl-tv"] != old["adjacent-tv"]


def test_directions_are_the_papers(net):
    assert panollama.values == {
        "pl-lpips-adj": "lower", "pl-ssim-adj": "higher", "pl-tv": "lower", "pl-tv-seam": "lower"
    }  # fmt: skip
    assert set(measured(panollama, net, noise(32, 128))) == set(panollama.values)


def test_total_variation_is_half_the_sum_of_both_mean_steps():
    rgb = noise(24, 40)
    x = rgb / 255
    across, down = np.abs(np.diff(x, axis=1)).mean(), np.abs(np.diff(x, axis=0)).mean()
    assert panorama_tv(rgb) == pytest.approx((across + down) / 2, rel=1e-12)
    assert panorama_tv(rgb) != pytest.approx(across + down, rel=0.1)
    assert panorama_tv(rgb.swapaxes(0, 1)) == pytest.approx(panorama_tv(rgb), rel=1e-12)
    assert panorama_tv(np.full((8, 32, 3), 7, np.uint8)) == 0
    assert panorama_tv(noise(1, 40)) is None


def test_the_step_round_a_loop_counts_on_loops_only():
    rgb = np.zeros((8, 16, 3), np.uint8)
    rgb[:, 8:] = 255
    assert panorama_tv(rgb) == pytest.approx(1 / 15 / 2)
    assert panorama_tv(rgb, loop=True) == pytest.approx(2 / 16 / 2)


def test_steps_of_columns_do_not_depend_on_stripes(monkeypatch):
    rgb = noise(70, 30)
    by_hand = np.abs(np.diff(rgb / 255, axis=1, append=(rgb / 255)[:, :1])).mean(axis=(0, 2))
    assert column_steps(rgb) == pytest.approx(by_hand, rel=1e-12)
    whole = column_steps(rgb), seam_tv(rgb, 10)
    monkeypatch.setattr("bench.metrics.coherence.STRIPE", 16)
    assert np.array_equal(column_steps(rgb), whole[0])
    assert seam_tv(rgb, 10) == whole[1]


def test_ssim_in_stripes_is_ssim_of_the_whole(monkeypatch):
    from torchmetrics.functional.image import structural_similarity_index_measure

    a = np.stack(tiny.pictures(2, 48, 61))
    b = np.clip(a + np.random.default_rng(0).normal(0, 30, a.shape), 0, 255).astype(np.uint8)
    import torch

    x, y = (torch.from_numpy(p).permute(0, 3, 1, 2).double() / 255 for p in (a, b))
    expected = structural_similarity_index_measure(x, y, data_range=1.0, reduction="none").numpy()
    assert ssim(a, b) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr("bench.metrics.coherence.STRIPE", 13)
    assert ssim(a, b) == pytest.approx(expected, rel=1e-12)
    assert ssim(a[:, :40], b[:, :40]) != pytest.approx(expected, rel=1e-3)


def test_a_visible_seam_raises_the_seam_and_blur_lowers_the_variation(net):
    smooth = np.repeat(np.linspace(0, 200, 128)[None, :, None], 32, axis=0).repeat(3, axis=2).astype(np.uint8)
    stepped = smooth.copy()
    stepped[:, 64:96] += 40
    assert measured(panollama, net, stepped)["pl-tv-seam"] > 0.05
    assert abs(measured(panollama, net, smooth)["pl-tv-seam"]) < 0.005
    rough = noise(32, 128)
    blurred = (rough.astype(int) + np.roll(rough.astype(int), 1, axis=1)) // 2
    assert panorama_tv(blurred.astype(np.uint8)) < panorama_tv(rough)


def test_the_classes_average_what_the_metric_returns(net):
    pictures = [np.concatenate(tiny.pictures(4, seed=s), axis=1) for s in range(2)]
    for cls, name in ((PanoramaTV, "pl-tv"), (SeamTV, "pl-tv-seam")):
        metric = cls(net)
        metric.update(pictures)
        assert float(metric.compute()) == pytest.approx(np.mean([measured(panollama, net, p)[name] for p in pictures]))
        assert metric.higher_is_better is False
