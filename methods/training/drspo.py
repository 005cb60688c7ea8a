"""Training of DRSPO's two stages on preferences: Diffusion-DPO, and MultiDiffusion-DPO on windows.

The arithmetic is in :mod:`methods.training.dpo`. One step: a pair's pictures are encoded, noised alike to one time; the
network answers on both, with the low-rank pairs of the stage and without (the reference); the loss is that of
preferences.

* ``stage=low`` sees whole scrolls at the blueprint's size, ``stage=high`` through the windows of the canvas.
* Stated by the paper (section 4.1): rank 64, Adafactor at 1e-6 with 1,000 steps of warm-up, one pair a step, beta
  5,000, windows of 128 at 32, 1024x4096 at both stages. Low-rank pairs are those of Diffusion-DPO in diffusers: the
  four linear layers of every attention.

The paper does not say, and here is a knob or a rule:

* ``steps``: 2,000 (PROPOSAL); ``form=squared`` and ``convention=half`` as the released Diffusion-DPO; ``norm`` as
  printed;
* ``scale``: the low stage works at half of the size a side (PROPOSAL): its weights make the blueprint, which has that
  size. ``scale=1`` is the paper's;
* Adafactor without its own scale and step, as released Diffusion-DPO's for SDXL; gradients cut at 1; a text left out
  with probability 0.2, as there;
* ``windows_weight``: lambda of L1 + lambda L2, which the paper's discussion proposes and did not try; 0;
* a network that answers with a picture or a velocity is compared with that, as diffusers does for velocities;
* pictures are encoded to the mode of the encoder's distribution; the ControlNet takes no part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from bench.errors import UsageError, near
from bench.registry import trainer
from bench.stats.intervals import bounds
from bench.types import Canvas
from methods.backbones.factory import Choice
from methods.drspo import ADAPTED, STAGES, blueprint_size
from methods.shared import lora
from methods.shared.canvas import cells
from methods.shared.trained import adapted, bare
from methods.shared.windows import Window, grid, sides
from methods.training import dpo
from methods.training.pairs import Pairs
from methods.training.preferences import Pair, Preferences

SCALES = {"low": 2.0, "high": 1.0}
TIMES = (100, 300, 500, 700, 900)  # of the card's figures
FREE = 2**44  # seeds of held-out noise


class Preferred:
    """The recipe of one stage; see :func:`drspo` for the knobs."""

    name = "drspo"
    card = "card.json"
    steps = 2000

    def __init__(self, backbone: Any, data: Preferences, knobs: Mapping[str, Any], weights: str = "") -> None:
        self.backbone, self.preferences, self.knobs = backbone, data, knobs
        for part in backbone.parts.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)
        if knobs["checkpointing"]:
            backbone.unet.enable_gradient_checkpointing()
        shapes = lora.layers(backbone.unet, ADAPTED)
        self.module: nn.Module = Pairs(shapes, knobs["rank"], knobs["rank"]).to(backbone.device)
        # All along: blocks that are computed anew in the backward pass need them there.
        self._worn = ExitStack()
        self._worn.enter_context(adapted(backbone.unet, self.module.adapter()))  # type: ignore[operator]
        self.data, self.batch, self.lr = data.about, knobs["batch"], knobs["lr"]
        self.accumulate, self.gradient_norm, self.averaged = knobs["accumulate"], knobs["clip"], knobs["averaged"]
        self.spike = knobs["spike"]
        self.settings = {
            **knobs, "backbone": backbone.name, "weights": weights, "precision": backbone.precision,
            "preferences": data.identity,
        }  # fmt: skip
        scheduler = backbone.scheduler(1)
        self.abar = torch.as_tensor(scheduler.alphas_cumprod).to(backbone.device)
        self.kind = scheduler.config["prediction_type"]
        self.training, self.held_out = split(data.pairs, knobs["held_out"])
        self._seen: list[tuple[Tensor, ...]] = []

    def optimisers(self) -> list[torch.optim.Optimizer]:
        from transformers.optimization import Adafactor

        return [
            Adafactor(
                self.module.parameters(), lr=self.lr, scale_parameter=False, relative_step=False, warmup_init=False,
                clip_threshold=1.0, weight_decay=1e-2,
            )
        ]  # fmt: skip

    def rate(self, step: int, steps: int) -> float:
        """Up, and level."""
        return min(1.0, float(step + 1) / max(1, int(self.knobs["warmup"])))

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        size = self.training[int(rng.integers(len(self.training)))]  # pairs of one call have one size
        alike = [p for p in self.training if (p.width, p.height) == (size.width, size.height)]
        pairs = [alike[int(i)] for i in rng.integers(0, len(alike), self.batch)]
        blank = [bool(rng.random() < self.knobs["drop"]) for _ in pairs]
        t = torch.randint(0, len(self.abar), (self.batch,), generator=noise)
        policy, reference, own = self.errors(pairs, t, noise, blank)
        margin = dpo.inside(policy, reference, self.knobs["beta"], self.knobs["convention"])
        loss = dpo.preference_loss(margin)
        if own is not None:
            alone = dpo.inside(*own, self.knobs["beta"], self.knobs["convention"])
            loss = loss + self.knobs["windows_weight"] * dpo.preference_loss(alone)
        self._seen.append(tuple(x.detach() for x in (loss, margin, policy, reference)))
        return loss

    def measured(self) -> dict[str, float]:
        """Of the step just taken, the mean over its parts."""
        seen, self._seen = [figures(*one) for one in self._seen], []
        return {name: float(np.mean([one[name] for one in seen])) for name in seen[0]}

    def errors(
        self, pairs: Sequence[Pair], t: Tensor, noise: torch.Generator, blank: Sequence[bool]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Errors (2n) of the trained network and of the reference at times (n): winners, then losers.

        And of single windows, where they count.
        """
        latents = torch.cat([self.latents(p, p.winner) for p in pairs] + [self.latents(p, p.loser) for p in pairs])
        drawn = torch.randn((len(pairs), *latents.shape[1:]), generator=noise).to(latents).repeat(2, 1, 1, 1)
        times = t.repeat(2).to(latents.device)
        kept = self.abar[times].to(latents)
        x, wanted = dpo.noised(latents, drawn, kept), dpo.target(latents, drawn, kept, self.kind)
        predict = self.network([("", "") if b else (p.prompt, p.negative) for p, b in zip(pairs, blank)] * 2)
        with torch.no_grad(), bare(self.backbone.unet):
            reference, alone = self.answered(predict, x, times, wanted)
        policy, own = self.answered(predict, x, times, wanted)
        return policy, reference, None if own is None or alone is None else (own, alone)

    def answered(self, predict: dpo.Predict, x: Tensor, t: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor | None]:
        """Errors of whole canvases, and of their windows where those count."""
        form = self.knobs["form"]
        if self.knobs["stage"] == "low":
            return dpo.errors(predict(x, t, range(len(x))), wanted, form), None
        size = (x.shape[-2], x.shape[-1])
        windows = _windows(self.backbone, size, self.knobs)
        views = dpo.on_windows(predict, x, t, windows, self.backbone.batch)
        whole = dpo.errors(dpo.aggregated(views, windows, size), wanted, form)
        return whole, dpo.window_errors(views, wanted, windows, form) if self.knobs["windows_weight"] else None

    def network(self, texts: Sequence[tuple[str, str]]) -> dpo.Predict:
        """The network with a text for each canvas."""
        told = [self.backbone.condition(text, negative) for text, negative in texts]

        def predict(x: Tensor, t: Tensor, rows: Sequence[int]) -> Tensor:
            embeds = torch.cat([told[r].embeds.chunk(2)[1] for r in rows])
            added = {k: torch.cat([told[r].added[k].chunk(2)[1] for r in rows]) for k in told[0].added}
            answer: Tensor = self.backbone.predict(x, t, embeds, added)
            return answer

        return predict

    @torch.no_grad()
    def latents(self, pair: Pair, image: str) -> Tensor:
        """Latents (1, c, h, w) of a picture at the stage's size."""
        canvas = blueprint_size(self.backbone, Canvas(pair.width, pair.height), self.knobs["scale"])
        rgb = self.preferences.picture(image)
        x = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].to(self.backbone.device, self.backbone.dtype) / 255
        if x.shape[-2:] != (canvas.height, canvas.width):
            x = interpolate(x, (canvas.height, canvas.width), mode="bicubic", antialias=True).clamp(0, 1)
        made: Tensor = self.backbone.encode(x)
        return made

    @torch.no_grad()
    def margins(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """Of pairs at fixed times and noise: margins (pairs, times), and how far errors are from the reference's."""
        margins, away = torch.zeros(2, len(pairs), len(TIMES))
        for i, pair in enumerate(pairs):
            for k, t in enumerate(TIMES):
                noise = torch.Generator().manual_seed(FREE + i)
                at = torch.tensor([min(t, len(self.abar) - 1)])
                policy, reference, _ = self.errors([pair], at, noise, [False])
                margins[i, k] = dpo.inside(policy, reference, self.knobs["beta"], self.knobs["convention"])
                away[i, k] = (policy - reference).abs().mean()
        return margins, away

    def evaluate(self) -> dict[str, float]:
        """On pairs of prompts that were not trained on: implicit accuracy and margin."""
        if not self.held_out:
            return {}
        margins, away = self.margins(self.held_out)
        return {
            "pairs": float(len(self.held_out)), "implicit_accuracy": dpo.accuracy(margins.flatten()),
            "margin": float(margins.mean()), "distance": float(away.mean()),
        }  # fmt: skip

    def save(self, folder: Path) -> None:
        pairs = self.module.adapter().items()  # type: ignore[operator]
        half = {name: pair._replace(a=pair.a.half().cpu(), b=pair.b.half().cpu()) for name, pair in pairs}
        lora.save(half, folder / lora.FILE, "unet")


def figures(loss: Tensor, margin: Tensor, policy: Tensor, reference: Tensor) -> dict[str, float]:
    """What the curves show: ``distance`` is how far errors moved from the reference's."""
    return {
        "loss": float(loss), "implicit_accuracy": dpo.accuracy(margin), "margin": float(margin.mean()),
        "distance": float((policy - reference).abs().mean()),
    }  # fmt: skip


def split(pairs: Sequence[Pair], share: float) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on, and those of about a ``share`` of the prompts, which are held out: always the same prompts."""
    prompts = sorted({p.prompt_id for p in pairs})
    drawn = np.random.default_rng(FREE).permutation(len(prompts))[: int(share * len(prompts))]
    out = {prompts[i] for i in drawn}
    return [p for p in pairs if p.prompt_id not in out], [p for p in pairs if p.prompt_id in out]


def _windows(backbone: Any, size: tuple[int, int], knobs: Mapping[str, Any]) -> list[Window]:
    side, step = sides(backbone.window, knobs["window"], knobs["stride"], 4)
    return grid(*size, side, step, factor=backbone.factor)


@trainer
def drspo(
    backbone: Choice,
    data: Any,
    *,
    stage: str = "low",
    rank: int = 64,
    lr: float = 1e-6,
    warmup: int = 1000,
    beta: float = 5000.0,
    convention: str = "half",
    form: str = "squared",
    batch: int = 1,
    accumulate: int = 1,
    clip: float = 1.0,
    drop: float = 0.2,
    scale: float | None = None,
    window: int | None = None,
    stride: int | None = None,
    windows_weight: float = 0.0,
    held_out: float = 0.1,
    averaged: bool = False,
    spike: float = 20.0,
    checkpointing: bool = True,
) -> Callable[[Any, Path, Path], Preferred]:
    """Train the weights of one of DRSPO's stages on preferences.

    Args:
        stage: ``low``, the whole scroll at the blueprint's size; ``high``, the canvas through its windows.
        rank: of the pairs, whose factor is 1.
        lr: Adafactor's rate.
        warmup: steps until the rate is reached.
        beta: how dear it is to leave the reference.
        convention: of beta: ``half`` (the released code multiplies by beta / 2) or ``full``.
        form: of errors: ``squared``, their mean, or ``norm``, the plain norm that the paper prints.
        batch: pairs that go through the network together.
        accumulate: so many times a step.
        clip: most that a step's gradient measures.
        drop: how often a text is left out.
        scale: how many times smaller a side pictures are made; none is 2 for the low stage and 1 for the high one.
        window, stride: of the high stage, in cells, as of the method.
        windows_weight: of single windows' own loss, added to the whole scroll's.
        held_out: share of the prompts that the card's figures are made of and that are not trained on.
        averaged: save a moving average of the weights of all steps, not the last.
        spike: so many times the usual loss ends the training.
        checkpointing: compute blocks anew in the backward pass: a third slower, in far less memory.

    Returns:
        what makes the recipe for :func:`methods.training.loop.train`.

    Raises:
        UsageError: knobs out of range, data that are no preferences, a network without a U-Net or a schedule of betas,
            pictures that windows do not fill; before anything is loaded.
    """
    knobs = {k: v for k, v in locals().items() if k not in ("backbone", "data")}
    _check(knobs)
    if not isinstance(data, Preferences):
        raise UsageError(
            "drspo trains on preferences: --data takes a folder that `scrollbench preferences build --out FOLDER` makes"
        )
    try:
        outline = backbone.outline()
    except UsageError as error:
        raise UsageError(f"{error}; drspo trains a U-Net: use sdxl, sd15 or world-sd") from error
    if "unet" not in getattr(outline, "parts", {}):
        raise UsageError(f"drspo trains a U-Net; backbone {outline.name} has none: use sdxl, sd15 or world-sd")
    knobs["scale"] = scale or SCALES[stage]
    training, _ = split(data.pairs, held_out)
    if not training:
        raise UsageError(f"held_out={held_out:g} leaves nothing to train on of {len(data.pairs)} pairs")
    for width, height in sorted({(p.width, p.height) for p in data.pairs}):
        size = cells(outline, blueprint_size(outline, Canvas(width, height), knobs["scale"]))
        if stage == "high":
            _windows(outline, size, knobs)
    return lambda bank, work, out: Preferred(backbone.load(), data, knobs, backbone.describe().weights_digest)


def accuracy(backbone: Choice, data: Preferences, stage: str, weights: Path, **settings: Any) -> dict[str, Any]:
    """Implicit accuracy of a stage's weights: how often they prefer the winner more than the network without them.

    Args:
        data: preferences; whether the weights learned from them is for the caller to know.
        stage: ``low`` or ``high``.
        weights: their file.
        settings: others of :func:`drspo`, such as ``scale``, ``window`` and ``stride``.

    Returns:
        ``pairs`` and ``prompts`` as counts, ``implicit_accuracy`` over the pairs at five times each, in [0, 1], ``low``
        and ``high``, its 95 % interval over prompts, and the mean ``margin``.

    Raises:
        UsageError: as :func:`drspo`, or weights of another network.
    """
    given = drspo.resolve({**settings, "stage": stage, "held_out": 0.0, "checkpointing": False})
    make = drspo.fn(backbone, data, **given)
    network = backbone.outline()
    lora.check(weights, lora.layers(network.parts["unet"], ADAPTED), (), network.name)
    recipe = make(None, Path(), Path())
    recipe.module.wear(lora.load(weights))
    margins, _ = recipe.margins(data.pairs)
    by_prompt: dict[str, list[float]] = {}
    for pair, row in zip(data.pairs, margins):
        by_prompt.setdefault(pair.prompt_id, []).append(dpo.accuracy(row))
    low, high = bounds(np.array([np.mean(shares) for shares in by_prompt.values()]), span=(0.0, 1.0))
    return {
        "pairs": len(data.pairs), "prompts": len(by_prompt), "implicit_accuracy": dpo.accuracy(margins.flatten()),
        "low": float(low), "high": float(high), "margin": float(margins.mean()),
    }  # fmt: skip


def _check(knobs: Mapping[str, Any]) -> None:
    for knob, values in (("stage", STAGES), ("form", dpo.FORMS), ("convention", tuple(dpo.CONVENTIONS))):
        if knobs[knob] not in values:
            raise UsageError(f"drspo: unknown {knob} {knobs[knob]!r}; {near(knobs[knob], values)}")
    for knob in ("rank", "batch", "accumulate"):
        if knobs[knob] < 1:
            raise UsageError(f"drspo: {knob} must be at least 1, got {knobs[knob]}")
    for knob in ("lr", "beta", "clip"):
        if not knobs[knob] > 0:
            raise UsageError(f"drspo: {knob} must be above 0, got {knobs[knob]:g}")
    if knobs["spike"] <= 1:
        raise UsageError(f"drspo: spike must be above 1, got {knobs['spike']:g}")
    if knobs["scale"] is not None and knobs["scale"] < 1:
        raise UsageError(f"drspo: scale must be at least 1, got {knobs['scale']:g}")
    for knob in ("drop", "held_out"):
        if not 0 <= knobs[knob] < 1:
            raise UsageError(f"drspo: {knob} must be at least 0 and below 1, a share; got {knobs[knob]:g}")
    if knobs["windows_weight"] < 0 or (knobs["windows_weight"] and knobs["stage"] == "low"):
        raise UsageError(f"drspo: windows_weight is 0 or more, of the high stage; got {knobs['windows_weight']:g}")
    if knobs["warmup"] < 0:
        raise UsageError(f"drspo: warmup must be 0 or more, got {knobs['warmup']}")
