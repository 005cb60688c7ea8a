"""Quality gates of the trained miniature: does the base model obey its captions on native squares?

Every claim about repetition on a panorama rests on this: a square that asks for one thing must show exactly one, a
square that asks for an empty sky must show none. Counted by both detectors, on fresh captions. The same question is put
to a method's panoramas, where it is the method that is asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.noise import Noise
from bench.registry import Method
from bench.store.pictures import levels
from bench.types import Canvas, Prompt
from bench.world.detectors import detect
from bench.world.render import HEIGHT
from bench.world.scene import UNIQUES, Scene, caption, sample_scene
from methods.backbones import Conditioning
from methods.control.controlnet import ROWS
from methods.direct import direct_latents
from methods.direct_tokens import direct_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from methods.backbones import LatentBackbone, TokensBackbone, VideoBackbone

STEPS, GUIDANCE = 20, 2.5
TOKEN_GUIDANCE = 3.0  # tokens one by one; temperature 1 and top-k 1000 as LlamaGen's


def squares(
    backbone: LatentBackbone | VideoBackbone,
    texts: list[str],
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch: int = 32,
    control: Tensor | None = None,
) -> Iterator[np.ndarray]:
    """Native squares of a latent backbone, or single frames of a video one: uint8 (h, w, 3), one a text.

    Noise is keyed by text and position. ``control`` are pictures (n, 3, h, w), one a text, for a network within
    :func:`methods.control.controlnet.watched`.
    """
    import torch

    clip = getattr(backbone, "native", None)  # of a video backbone
    cells = (1, *clip[1:]) if clip else (backbone.window, backbone.window)  # type: ignore[union-attr]
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        told = [backbone.condition(t) for t in part]

        def both(tables: list[Tensor]) -> Tensor:  # one row a text, the unconditional half first
            return torch.cat([half for pair in zip(*(table.chunk(2) for table in tables)) for half in pair])

        c = Conditioning(both([t.embeds for t in told]), {k: both([t.added[k] for t in told]) for k in told[0].added})
        if control is not None:
            c = Conditioning(c.embeds, {**c.added, ROWS: control[start : start + batch].repeat(2, 1, 1, 1)})
        x = torch.cat(
            [
                Noise(seed, f"{start + i}:{t}").normal("canvas", (1, backbone.channels, *cells))
                for i, t in enumerate(part)
            ]
        )
        with torch.no_grad():
            x = direct_latents(lambda v, t, c=c: backbone.guided(v, t, c, guidance), backbone.scheduler(steps), x)  # type: ignore[misc]
            for picture in backbone.decode(x):
                rgb = picture[:, 0] if clip else picture
                yield levels(rgb.permute(1, 2, 0))


def token_squares(
    backbone: TokensBackbone, texts: list[str], seed: int = 0, guidance: float = TOKEN_GUIDANCE
) -> Iterator[np.ndarray]:
    """Native squares of a backbone that writes tokens: uint8 (h, w, 3), one a text, drawn as :func:`squares` draws."""
    side = backbone.side * backbone.factor
    for i, text in enumerate(texts):
        noise = Noise(seed, f"{i}:{text}")
        picture = direct_tokens.fn(backbone, Prompt(str(i), text), Canvas(side, side), noise, guidance=guidance)
        yield levels(picture.permute(1, 2, 0))


Draw = Callable[[Any, list[str], int], Iterator[np.ndarray]]  # of a backbone, texts and a seed one picture a text


def scrolls(method: Method, width: int, knobs: Mapping[str, Any]) -> Draw:
    """What makes panoramas of ``width`` px by a method, uint8 (32, width, 3).

    Args:
        knobs: of the method; its ``steps`` and ``guidance`` are those of squares unless set here.

    Raises:
        UsageError: unknown knobs, wrong types.
    """
    usual = {k: v for k, v in (("steps", STEPS), ("guidance", GUIDANCE)) if k in method.params}
    given = method.resolve({**usual, **knobs})

    def draw(backbone: Any, texts: list[str], seed: int) -> Iterator[np.ndarray]:
        for i, text in enumerate(texts):
            noise = Noise(seed, f"{i}:{text}")
            picture = method.fn(backbone, Prompt(str(i), text), Canvas(width, HEIGHT), noise, **given)
            yield levels(picture.permute(1, 2, 0))

    return draw


def obedience(
    backbone: LatentBackbone | VideoBackbone | TokensBackbone, n: int = 400, seed: int = 0, draw: Draw | None = None
) -> list[dict[str, Any]]:
    """How often n pictures of fresh captions show what was asked, one row a detector and kind of caption.

    Rows: ``{"asked", "detector", "n", "mean", "exactly_one", "any"}``: mean count of things, share of pictures with one
    thing, and with one or more. For captions of an empty sky only ``any`` matters: it must be small.

    Args:
        draw: what makes the pictures; None for native squares.
    """
    rng = np.random.default_rng([2**43, seed])
    scenes = [sample_scene(rng) for _ in range(n)]
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    usual: Callable[..., Iterator[np.ndarray]] = token_squares if backbone.family == "tokens" else squares
    draw = usual if draw is None else draw
    for scene, rgb in zip(scenes, draw(backbone, [caption(s) for s in scenes], seed)):
        for detector in ("colour", "net"):
            found[scene.unique or "empty sky", detector].append(count(rgb, scene, detector))
    rows = []
    for (asked, detector), counts in sorted(found.items()):
        c = np.array(counts)
        rows.append(
            {
                "asked": asked,
                "detector": detector,
                "n": len(c),
                "mean": float(c.mean()),
                "exactly_one": float((c == 1).mean()),
                "any": float((c > 0).mean()),
            }
        )
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """:func:`obedience` in four numbers for a card: the two gates, by each detector."""
    found = {}
    for detector in ("colour", "net"):
        asked = [r for r in rows if r["detector"] == detector and r["asked"] != "empty sky"]
        found[f"exactly_one_{detector}"] = sum(r["exactly_one"] * r["n"] for r in asked) / sum(r["n"] for r in asked)
        empty = (r for r in rows if r["detector"] == detector and r["asked"] == "empty sky")
        found |= {f"empty_sky_any_{detector}": r["any"] for r in empty}
    return found


def round_trip(backbone: LatentBackbone | TokensBackbone) -> Callable[[np.ndarray], np.ndarray]:
    """A picture through the backbone's autoencoder and back: what generated pictures lose at best."""
    import torch

    def through(rgb: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.array(rgb)).permute(2, 0, 1) / 255
        with torch.no_grad():
            if backbone.family == "tokens":
                back = backbone.decode(backbone.encode(x))
            else:
                back = backbone.decode(backbone.encode(x[None]))[0]
        return levels(back.permute(1, 2, 0))

    return through


def count(rgb: np.ndarray, scene: Scene, detector: str) -> int:
    """How many of the scene's unique thing are in a picture; of any unique thing where it asks for none."""
    kinds = (scene.unique,) if scene.unique else UNIQUES
    return sum(d.kind in kinds for d in detect(rgb, scene, detector=detector))
