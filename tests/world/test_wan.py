"""world-wan and its alignment: what a pan is on the miniature's autoencoder, and that the alignment ends repetition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench.noise import Noise
from bench.registry import find
from bench.store.pictures import levels
from bench.types import Canvas, Parts, Prompt
from bench.world.obedience import count, obedience, summary
from bench.world.render import render
from bench.world.scene import Scene, caption
from methods.scrollscape import consensus, decoded, enlarged, fused, scrollscape
from methods.shared.scan import lay, stacked
from methods.shared.windows import gather

SUN = Scene("photo", "sea", "day", "clear", "sun", None)


@pytest.fixture(scope="module")
def world_wan() -> Any:
    return find("backbones", "world-wan")()


def test_squares_of_the_base_show_what_was_asked_once(world_wan: Any) -> None:
    found = summary(obedience(world_wan, n=24, seed=1))
    assert found["exactly_one_colour"] >= 0.7  # 24 squares; the gate is of 400
    assert found["empty_sky_any_colour"] <= 0.4  # a handful


def test_without_tap_a_pan_is_blurred_but_for_its_first_frame(world_wan: Any) -> None:
    """The autoencoder learned clips of two latent frames: later ones are blurred, of a still clip nearly as much."""
    truth = torch.from_numpy(render(SUN, 256, 2**31).rgb.copy()).permute(2, 0, 1) / 255
    scan = lay((4, 32), (15, 4, 4), "right")
    with torch.no_grad():
        z = world_wan.encode(truth[None, :, None])[:, :, 0]
        clip = stacked(gather(z, scan.windows(2)))

        def shown(tap: str) -> torch.Tensor:
            pieces = enlarged(map(consensus, decoded(world_wan, clip, tap)), None, Noise(0, ""), 0, 0)
            whole: torch.Tensor = Parts(32, 256, fused(pieces, scan, 8)).whole()
            return whole

        image, anchor, none = map(shown, ("image", "anchor", "none"))

    def loss(x: torch.Tensor, columns: slice = slice(None)) -> float:
        return float((x - truth)[..., columns].square().mean())

    def edges(x: torch.Tensor) -> float:
        return float(x.diff(dim=-1).abs().mean())

    assert loss(none) > 3 * loss(image)  # 5 dB
    assert loss(none) > 1.5 * loss(anchor)
    assert edges(none) < 0.7 * edges(image)
    alone = slice(0, 16)  # columns of the first frame only: the control
    assert loss(none, alone) < 1.1 * loss(image, alone)


def test_the_alignment_draws_on_a_panorama_what_the_base_repeats(world_wan: Any) -> None:
    def things(**knobs: Any) -> float:
        given = scrollscape.resolve({"steps": 10, "guidance": 2.5, "tap": "image", **knobs})
        counts = []
        for biome in ("sea", "desert"):
            scene = Scene("photo", biome, "day", "clear", "sun", None)
            picture = scrollscape.fn(
                world_wan, Prompt(biome, caption(scene)), Canvas(256, 32), Noise(0, biome), **given
            )
            counts.append(count(levels(picture.permute(1, 2, 0)), scene, "net"))
        return float(np.mean(counts))

    assert things() <= 2
    assert things(alignment="none") >= 3  # the control
