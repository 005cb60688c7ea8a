"""Do the numbers mean what they say? Metrics of the miniature on pictures whose truth is known."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.stats import spearmanr

from bench import extractors, views
from bench.metrics.distribution import kernel_distance
from bench.metrics.sample import Sample
from bench.prompts import load_prompts
from bench.registry import find
from bench.types import Canvas, Prompt
from bench.world import defects
from bench.world.render import HEIGHT, render
from bench.world.scene import Scene

WIDE = Canvas(8 * HEIGHT, HEIGHT)
FRESH = 2**31 + 9_000_000
network = cache(extractors.load)


@cache
def prompts(n: int) -> tuple[Prompt, ...]:
    pool = [p for p in load_prompts("scrollworld@1").prompts if p.attributes["unique"]]
    return tuple(pool[i * len(pool) // n] for i in range(n))


def scene(prompt: Prompt) -> Scene:
    return Scene.from_dict(dict(prompt.attributes["scene"]))


def truth(prompt: Prompt, i: int, copies: int = 1) -> np.ndarray:
    return render(scene(prompt), WIDE.width, FRESH + i, copies=copies).rgb


def score(metric: str, extractor: str, rgb: np.ndarray, prompt: Prompt) -> dict[str, float | None]:
    found = find("metrics", metric)
    sample = Sample(rgb, prompt, WIDE, None, network(extractor), found.view)
    return {v.name: v.value for v in found.fn(sample, **found.resolve({})) if v.index is None}


def test_gsd_dino_of_a_tiled_square_is_near_one_and_of_the_truth_is_not() -> None:
    tiled, true = [], []
    for i, prompt in enumerate(prompts(12)):
        square = render(scene(prompt), HEIGHT, FRESH + i).rgb
        tiled.append(score("gsd-dino", "world-vit", defects.tile(square, WIDE.width), prompt)["gsd-dino"])
        true.append(score("gsd-dino", "world-vit", truth(prompt, i), prompt)["gsd-dino"])
    assert min(tiled) >= 0.97
    assert np.mean(true) < 0.97


@pytest.mark.parametrize("value", ["object-count", "object-count-net"])
def test_object_counts_follow_the_number_that_was_injected(value: str) -> None:
    injected, found = [], []
    for i, prompt in enumerate(prompts(8)):
        for k in (0, 1, 2, 4, 6, 8):
            injected.append(k)
            found.append(score("object-repetition", "world-oracle", truth(prompt, i, k), prompt)[value])
    assert spearmanr(injected, found).statistic >= 0.95
    turned = np.random.default_rng(0).permutation(injected)
    assert abs(spearmanr(turned, found).statistic) < 0.5  # the control: counts of other pictures


def kid(pictures: list[np.ndarray], reference: list[np.ndarray]) -> float:
    def features(rgbs: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(
            [network("world-cnn").embed(views.crops(r, "tiles", Canvas(r.shape[1], HEIGHT))) for r in rgbs]
        )

    return kernel_distance(features(pictures), features(reference))


def test_kid_against_panoramas_punishes_repetition_and_against_squares_rewards_it() -> None:
    chosen = prompts(24)
    once = [truth(p, i) for i, p in enumerate(chosen)]
    eight = [truth(p, i, 8) for i, p in enumerate(chosen)]
    panoramas = [truth(p, i + 500) for i, p in enumerate(chosen)]
    squares = [render(scene(p), HEIGHT, FRESH + 1000 + i + 24 * j).rgb for i, p in enumerate(chosen) for j in range(8)]
    assert kid(eight, panoramas) > 3 * abs(kid(once, panoramas))
    assert kid(eight, squares) < kid(once, squares)


def test_adjacent_tv_rises_with_the_strength_of_a_seam() -> None:
    for i, prompt in enumerate(prompts(6)):
        values = []
        for strength in (0.0, 0.05, 0.1, 0.2, 0.4):
            rgb = defects.seam(truth(prompt, i), strength, range(HEIGHT, WIDE.width, HEIGHT))
            values.append(score("adjacent", "world-lpips", rgb, prompt)["adjacent-tv"])
        assert values == sorted(values)
        assert values[-1] > values[0] + 0.05
        elsewhere = defects.seam(truth(prompt, i), 0.4, range(HEIGHT // 2, WIDE.width, HEIGHT))  # the control
        assert score("adjacent", "world-lpips", elsewhere, prompt)["adjacent-tv"] == pytest.approx(values[0], abs=0.01)


def test_clip_score_prefers_a_picture_s_own_caption() -> None:
    chosen = prompts(12)
    right = [score("clip-score", "world-clip", truth(p, i), p)["clip-score"] for i, p in enumerate(chosen)]
    wrong = [score("clip-score", "world-clip", truth(p, i), chosen[i - 5])["clip-score"] for i, p in enumerate(chosen)]
    assert np.mean(right) > np.mean(wrong) + 1


def test_horizon_range_follows_the_size_of_a_break() -> None:
    injected, found = [], []
    for i, prompt in enumerate(prompts(10)):
        for rows in (0, 2, 4, 6):
            broken = defects.horizon_break(truth(prompt, i), rows, (64, 128, 192))
            injected.append(rows)
            found.append(score("horizon-break", "world-oracle", broken, prompt)["horizon-range"])
    assert spearmanr(injected, found).statistic >= 0.7
    turned = np.random.default_rng(0).permutation(injected)
    assert abs(spearmanr(turned, found).statistic) < 0.4  # the control
