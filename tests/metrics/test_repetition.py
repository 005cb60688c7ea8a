"""The repeat count: on drawn copies, on shuffled controls, in every orientation, and where nothing can be said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from bench import extractors
from bench.metrics.repetition import repeat_count, repetition, token_map
from bench.metrics.sample import Sample
from bench.prompts import load_prompts
from bench.types import Canvas, Prompt
from bench.world import defects
from bench.world.scene import Scene

WIDE = Canvas(256, 32)


@pytest.fixture(scope="module")
def vit() -> Any:
    return extractors.load("world-vit")


def renders(count: int) -> list[Scene]:
    pool = [p for p in load_prompts("scrollworld@1").prompts if p.attributes["unique"]]
    return [Scene.from_dict(dict(pool[i * len(pool) // count + 5].attributes["scene"])) for i in range(count)]


def planted(k: int, columns: int = 64, seed: int = 0) -> np.ndarray:
    """A token map (8, columns, 6): bands, a little noise, and k equal things at even distances."""
    rng = np.random.default_rng(seed)
    f = np.repeat(rng.standard_normal((8, 1, 6)), columns, axis=1) + 0.05 * rng.standard_normal((8, columns, 6))
    thing = np.array([0, 0, 0, 0, 0, 5.0])
    for i in range(k):
        f[3, (2 * i + 1) * columns // (2 * k)] += thing
    return f


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_planted_copies_are_counted(k: int) -> None:
    found = repeat_count(planted(k))
    assert found is not None
    assert found == pytest.approx(k, abs=0.35)


def test_different_things_are_no_repetition() -> None:
    f = planted(0)
    for i, axis in enumerate((1, 2, 3, 4)):
        f[3, 8 + 16 * i, axis] += 6.0
    assert repeat_count(f) == pytest.approx(1.0, abs=0.01)
    f[3, 8] = f[3, 24]  # the control: now two of them are alike
    assert repeat_count(f) > 1.2  # type: ignore[operator]


def test_things_that_touch_are_one() -> None:
    f = planted(1)
    f[3, 33] = f[3, 32]
    assert repeat_count(f) == pytest.approx(1.0, abs=0.35)


def test_a_map_and_its_transpose_and_a_turned_loop_say_the_same() -> None:
    f = planted(4)
    assert repeat_count(f.transpose(1, 0, 2)) == repeat_count(f)
    assert repeat_count(np.roll(f, 17, axis=1), loop=True) == pytest.approx(repeat_count(f, loop=True))


@pytest.mark.parametrize("fill", [0.0, 1.0, np.nan])
def test_where_nothing_stands_out_it_is_undefined(fill: float) -> None:
    assert repeat_count(np.full((8, 64, 6), fill)) is None


def test_a_black_picture_is_undefined_and_no_crash(vit: Any) -> None:
    sample = Sample(np.zeros((32, 256, 3), np.uint8), Prompt("p", "a sea"), WIDE, None, vit)
    assert [v.value for v in repetition.fn(sample)] == [None]


@pytest.mark.parametrize("size", [(32, 256), (256, 32), (64, 64), (40, 150)])
def test_the_token_map_covers_the_picture(vit: Any, size: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    tokens = token_map(rgb, vit)
    short, long = min(tokens.shape[:2]), max(tokens.shape[:2])
    assert long / short == pytest.approx(max(size) / min(size), rel=0.1)
    assert (tokens.shape[0] > tokens.shape[1]) == (size[0] > size[1])
    assert np.isfinite(tokens).all()


def test_it_follows_injected_copies_on_fresh_renders_and_not_shuffled_ones(vit: Any) -> None:
    strengths = (1, 2, 4, 6, 8)
    table = np.array(
        [
            [repeat_count(token_map(defects.copies(s, 256, 2**31 + 70_000 + i, k).rgb, vit)) for k in strengths]
            for i, s in enumerate(renders(10))
        ],
        dtype=float,
    )
    within = np.mean([spearmanr(strengths, row).statistic for row in table])
    assert within >= 0.8
    shuffled = np.random.default_rng(0).permuted(table, axis=1)
    assert abs(np.mean([spearmanr(strengths, row).statistic for row in shuffled])) < 0.5


def test_other_roles_have_no_tokens() -> None:
    with pytest.raises(Exception, match="cannot give patch tokens; name one of role dino"):
        extractors.load("world-cnn").patches([np.zeros((32, 32, 3), np.uint8)])
