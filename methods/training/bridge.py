"""Training of Scale-DiT's bridge (Zhang and Tai, arXiv:2510.16325) from pairs of a picture and a small one of it.

Written from a description of the first release (train.yaml and its code, commit 958f0de). One step:

* a picture and its bicubic, ``ratio`` times smaller copy are encoded to z and z_low; a text is left out with
  probability ``drop``;
* t = sigmoid(n), n standard normal; x = (1 - t) z + t noise; the small picture stays clean, at time 0;
* the network answers on [text | x | z_low] with the bridge's pairs, as it does when a picture is made
  (:mod:`methods.shared.flux_streams`): low tokens use all pairs, high ones those of queries, keys and values;
* the loss is the mean square of v - (noise - z) over the large picture. Gradients reach the pairs alone.

Defaults are the release's: rank and alpha 16, A normal and B zero at the start, guidance input 1, rotary base times 10,
Prodigy at 1 (:mod:`methods.training.prodigy`), gradients cut at 0.1, eight pictures a step, one at a time, random
squares of the native size. Released weights are of 25,000 steps.

What was settled here:

* ``masks=sampling``: who sees whom is what it is when a picture is made. ``masks=released``: as the release trains,
  where all see the whole small picture (up to 256 tokens of it), and low tokens see the text, which its sampling hides
  from them;
* pictures are encoded to the mode of the encoder's distribution, as the method does it;
* pairs are kept in float32 whatever the network's precision, and written in float16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from bench.errors import UsageError, near
from bench.registry import trainer
from bench.types import Canvas
from methods.backbones.factory import Choice
from methods.scaledit import RANK, scale_dit, setting
from methods.shared import lora
from methods.shared.bridged import packed, turned
from methods.shared.flux_streams import ADAPTED, Attend, Inputs, predict
from methods.shared.positions import axes_of
from methods.shared.sparse_attention import choose
from methods.shared.token_layout import Layout, Tokens, allowed, tokens
from methods.training.loop import adamw, check_numbers, warm_and_falling
from methods.training.pairs import Pairs
from methods.training.pictures import Key, Kind, Pictures
from methods.training.prodigy import Prodigy

RATES = {"prodigy": 1.0, "adamw": 1e-4}
MASKS = ("sampling", "released")
SHORT = 1024  # tokens
HELD_OUT, TIMES = 8, (0.2, 0.4, 0.6, 0.8)  # pictures of each kind, and times, of the card's figures


Prepared = tuple[tuple[Tensor, ...], tuple[Tensor, Tensor], Attend]


class Bridge:
    """The recipe of one training; see :func:`bridge` for the knobs."""

    name = "scale-dit"
    card = "card.json"
    steps = 25_000

    def __init__(
        self, backbone: Any, data: Pictures, kinds: tuple[Kind, ...], knobs: Mapping[str, Any], weights: str = ""
    ) -> None:
        self.backbone, self.pictures, self.kinds, self.knobs = backbone, data, kinds, knobs
        for part in backbone.parts.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)
        shapes = lora.layers(backbone.transformer, ADAPTED)
        self.module: nn.Module = Pairs(shapes, knobs["rank"], knobs["alpha"]).to(backbone.device)
        self.data, self.batch, self.lr = data.about, knobs["batch"], knobs["lr"] or RATES[knobs["optimiser"]]
        self.accumulate, self.gradient_norm, self.averaged = knobs["accumulate"], knobs["clip"], knobs["averaged"]
        self.settings = {
            **knobs, "lr": self.lr, "backbone": backbone.name, "weights": weights, "precision": backbone.precision,
            "pictures": data.identity,
        }  # fmt: skip
        self._kept: dict[tuple[Kind, Key], tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        self._blank: tuple[Tensor, Tensor] | None = None
        self._prepared: dict[tuple[Kind, bool], Prepared] = {}

    def optimisers(self) -> list[torch.optim.Optimizer]:
        made = Prodigy if self.knobs["optimiser"] == "prodigy" else adamw
        return [made(self.module.parameters(), self.lr)]

    def rate(self, step: int, steps: int) -> float:
        """Prodigy's rate stays, as the release's does."""
        return 1.0 if self.knobs["optimiser"] == "prodigy" else warm_and_falling(step, steps)

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        shares = np.array([kind.share for kind in self.kinds])
        kind = self.kinds[int(rng.choice(len(self.kinds), p=shares / shares.sum()))]
        keys = [self.pictures.draw(kind, rng) for _ in range(self.batch)]
        blank = [bool(rng.random() < self.knobs["drop"]) for _ in keys]
        return self.error(kind, keys, torch.randn(self.batch, generator=noise).sigmoid(), noise, blank)

    def error(
        self, kind: Kind, keys: list[Key], t: Tensor, noise: torch.Generator, blank: list[bool], bridged: bool = True
    ) -> Tensor:
        """The mean square of the velocity's error on examples at times (n), texts left out where ``blank``."""
        high, low, text, pooled = (
            torch.cat(rows) for rows in zip(*(self.encoded(kind, k, b) for k, b in zip(keys, blank)), strict=True)
        )
        eps, t = torch.randn(high.shape, generator=noise).to(high), t.to(high)
        x = (1 - t.view(-1, 1, 1, 1)) * high + t.view(-1, 1, 1, 1) * eps
        order, table, attend = self._prepare(kind, text.shape[1], bridged)
        patch = self.backbone.patch
        inputs = Inputs(
            packed(x, patch)[:, order[0]], packed(low, patch)[:, order[1]] if bridged else None,
            text, pooled, t, torch.full_like(t, self.knobs["guidance"]),
        )  # fmt: skip
        pairs = self.module.adapter() if bridged else {}  # type: ignore[operator]
        v = predict(self.backbone.transformer, inputs, pairs, table, attend, self.knobs["checkpointing"])
        return (v.float() - packed(eps - high, patch)[:, order[0]].float()).square().mean()

    def encoded(self, kind: Kind, key: Key, blank: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents of a picture and of its small one, and what :meth:`read` makes of its text; one row each."""
        found = self._kept.get((kind, key))
        if found is None:
            found = self._look(kind, key)
            if self.pictures.few:
                self._kept[kind, key] = found
        if not blank:
            return found
        if self._blank is None:
            self._blank = self.read("")
        return *found[:2], *self._blank

    @torch.no_grad()
    def _look(self, kind: Kind, key: Key) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rgb, text = self.pictures.look(kind, key)
        x = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].to(self.backbone.device) / 255
        size = (kind.height // kind.ratio, kind.width // kind.ratio)
        small = interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 1)
        return self.backbone.encode(x), self.backbone.encode(small), *self.read(text)

    @torch.no_grad()
    def read(self, text: str) -> tuple[Tensor, Tensor]:
        """T5's embeddings and CLIP's pooled vector of a text, each of one row."""
        made = self.backbone.condition(text)
        return made.embeds.chunk(2)[1], made.added["pooled_projections"].chunk(2)[1]

    def _prepare(self, kind: Kind, text: int, bridged: bool) -> Prepared:
        """Of a kind of canvas: both grids' orders, the rotary table, the attention."""
        if (kind, bridged) not in self._prepared:
            given = {**self.knobs, "ratio": kind.ratio, "bridge": "" if bridged else "none"}
            layout = _setting(self.backbone, kind, given).layout(text)
            if self.knobs["masks"] == "released":
                layout = replace(layout, low_radius=None, low_seen=True, low_text=True)
            device = self.backbone.device
            short = device.type == "cpu" and layout.length <= SHORT
            self._prepared[kind, bridged] = (
                tuple(order.to(device) for order in layout.orders),
                turned(layout, axes_of(self.backbone, "scale-dit"), self.knobs["ntk"], device),
                masked(layout) if short else choose(layout, device).attend,
            )
        return self._prepared[kind, bridged]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss on fresh pictures with the bridge and with neither bridge nor small picture, both by local attention."""
        found = {}
        for kind in self.kinds if self.pictures.fresh else ():
            rng = np.random.default_rng(2**44)
            keys = [self.pictures.draw(kind, rng, fresh=True) for _ in range(HELD_OUT)]
            for label, bridged in (("loss", True), ("loss_without", False)):
                noise = torch.Generator().manual_seed(2**44)
                told = [False] * HELD_OUT
                losses = [self.error(kind, keys, torch.full((HELD_OUT,), t), noise, told, bridged) for t in TIMES]
                found[f"{label}_{kind.width}x{kind.height}"] = float(torch.stack(losses).mean())
        return found

    def save(self, folder: Path) -> None:
        pairs = self.module.adapter().items()  # type: ignore[operator]
        half = {name: pair._replace(a=pair.a.half().cpu(), b=pair.b.half().cpu()) for name, pair in pairs}
        lora.save(half, folder / lora.FILE)


def masked(layout: Layout) -> Attend:
    """A layout's attention by the table of all pairs: on a CPU, with gradients, the fastest for short sequences."""
    every = tokens(layout)
    may = allowed(Tokens(*(t[:, None] for t in every)), Tokens(*(t[None] for t in every)), layout)
    bias = torch.zeros(may.shape).masked_fill(~may, -torch.inf)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias.to(q)
        seen: Tensor = scores.softmax(dim=-1) @ v
        return seen

    return attend


def _setting(backbone: Any, kind: Kind, knobs: Mapping[str, Any]) -> Any:
    """What the method makes of a canvas; its own knobs where a training has none of the name."""
    known = {k: v for k, v in knobs.items() if k in scale_dit.params}
    return setting(backbone, Canvas(kind.width, kind.height), scale_dit.resolve(known))


@trainer
def bridge(
    backbone: Choice,
    data: Pictures,
    *,
    rank: int = RANK,
    alpha: float = 16.0,
    optimiser: str = "prodigy",
    lr: float | None = None,
    batch: int = 1,
    accumulate: int = 8,
    clip: float = 0.1,
    averaged: bool = False,
    drop: float = 0.1,
    guidance: float = 1.0,
    size: int | None = None,
    ratio: int = 4,
    window: int | None = None,
    ntk: float = 10.0,
    masks: str = "sampling",
    checkpointing: bool = True,
) -> Callable[[Any, Path, Path], Bridge]:
    """Train Scale-DiT's bridge.

    Args:
        rank, alpha: of the pairs, whose factor is alpha / rank.
        optimiser: ``prodigy`` or ``adamw``.
        lr: its rate; none is 1 for Prodigy, which finds its own, and 1e-4 for AdamW.
        batch: pictures that go through the network together.
        accumulate: so many times a step.
        clip: most that a step's gradient measures.
        averaged: save a moving average of the weights of all steps, not the last.
        drop: how often a text is left out.
        guidance: the network's guidance input.
        size: side of the crops of a folder's pictures in px; none is the network's native square.
        ratio, window, ntk: as of the method.
        masks: who sees whom, as when pictures are made (``sampling``) or as in the release's training (``released``).
        checkpointing: compute blocks anew in the backward pass: a third slower, in far less memory.

    Returns:
        what makes the recipe for :func:`methods.training.loop.train`.

    Raises:
        UsageError: knobs out of range, a network that is no FLUX, canvases that windows do not fill, pictures that are
            too small; before anything is loaded.
    """
    knobs = {k: v for k, v in locals().items() if k not in ("backbone", "data")}
    _check(knobs)
    try:
        outline = backbone.outline()
    except UsageError as error:
        raise UsageError(f"{error}; scale-dit works inside FLUX's transformer: use flux-dev or world-flux") from error
    side = knobs["size"] = size or outline.window * outline.factor
    knobs["window"] = window or _setting(outline, Kind(side, side, ratio), knobs).window
    kinds = data.kinds(side, ratio)
    for kind in kinds:
        _setting(outline, kind, {**knobs, "ratio": kind.ratio})
    return lambda bank, work, out: Bridge(backbone.load(), data, kinds, knobs, backbone.describe().weights_digest)


def _check(knobs: Mapping[str, Any]) -> None:
    for knob, values in (("optimiser", tuple(RATES)), ("masks", MASKS)):
        if knobs[knob] not in values:
            raise UsageError(f"scale-dit: unknown {knob} {knobs[knob]!r}; {near(knobs[knob], values)}")
    check_numbers("scale-dit", knobs)
