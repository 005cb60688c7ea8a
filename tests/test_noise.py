"""Noise is the same everywhere, and different where it must be."""

from __future__ import annotations

import numpy as np
import pytest

from bench.noise import Noise

CANVAS = [0.07313460069335104, -1.7509023264309675, 0.3306554655740733, -0.003914670223375044]


def draw(seed: int = 0, prompt: str = "harbour", stream: str = "canvas", n: int = 4) -> list[float]:
    return [float(x) for x in Noise(seed, prompt).generator(stream).standard_normal(n)]


def test_the_first_numbers_of_a_stream_never_change() -> None:
    assert draw() == pytest.approx(CANVAS, abs=1e-15)


def test_a_neighbouring_stream_does_not_give_the_golden_numbers() -> None:
    assert draw(seed=1) != pytest.approx(CANVAS, abs=1e-3)


@pytest.mark.parametrize("other", [{"seed": 1}, {"prompt": "reef"}, {"stream": "step-1"}])
def test_seed_prompt_and_stream_each_change_the_numbers(other: dict[str, object]) -> None:
    assert not np.intersect1d(draw(n=64), draw(n=64, **other)).size  # type: ignore[arg-type]


def test_names_that_run_together_do_not_collide() -> None:
    assert draw(prompt="a:1", stream="b") != draw(prompt="a", stream="1:b")


def test_the_order_of_drawing_does_not_matter() -> None:
    noise = Noise(0, "harbour")
    forward = [noise.generator(s).random(3).tolist() for s in ("canvas", "step-1")]
    backward = [noise.generator(s).random(3).tolist() for s in ("step-1", "canvas")]
    assert forward == backward[::-1]
    assert forward[0] != forward[1]


def test_drawing_leaves_global_generators_alone() -> None:
    np.random.seed(7)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # type: ignore[index] # noqa: NPY002
    draw()
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index] # noqa: NPY002


def test_tensors_are_the_same_numbers_in_single_precision() -> None:
    tensor = Noise(0, "harbour").normal("canvas", (2, 2))
    assert str(tensor.dtype) == "torch.float32"
    assert tensor.flatten().tolist() == [float(np.float32(x)) for x in draw()]


def test_noise_is_standard_normal() -> None:
    x = np.array(draw(n=20_000))
    assert abs(x.mean()) < 0.03
    assert abs(x.std() - 1) < 0.03
