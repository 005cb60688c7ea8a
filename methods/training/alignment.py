"""Training of ScrollScape's alignment (Yu et al., ECCV 2026, arXiv:2603.24270): a video network learns ScanPE.

FACT: 10,000 iterations of flow matching on some 3,000 curated pictures of many proportions. One step:

* a wide or tall picture is encoded as one picture to z. PROPOSAL: windows of z, as the method cuts them, are the clip
  x0, so that each latent frame is the latent of a picture; noise is cut out of one canvas by the same windows;
* t = s u / (1 + (s - 1) u), u uniform in [0, 1] and s the schedule's shift (PROPOSAL); x = (1 - t) x0 + t noise; a text
  is left out with probability ``drop``;
* the network answers with tokens at their places on the canvas (:mod:`methods.shared.scan`). FACT: the loss is the mean
  square of v - (noise - x0). For a network that answers with x0, as the miniature's, that is the square of its error
  over t^2, which is weighted with 8 at most.

PROPOSAL for all that was not found: a LoRA of rank 64 on self-attention and feed-forward layers at 1e-4, or all weights
at 1e-5; AdamW; one picture a step and process; 10 % of the texts left out.

What was settled here. With one step and one direction a frame's number tells its place, and ScanPE is learnt by nobody:
each clip draws its step between the usual one and half a frame, and its direction, there or back. A picture that needs
more than ``frames`` frames is cut to a part that does not, drawn anew each time, under its whole caption. Latents and
texts are kept in the work folder. Weights that learn are in float32 whatever the network's precision, and are written
in float16.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad

from bench.errors import UsageError, near
from bench.ids import digest
from bench.registry import trainer
from methods.backbones.factory import Choice
from methods.scrollscape import ADAPTED, RANK, outlined
from methods.shared import lora, trained
from methods.shared.positions import axes_of, placed
from methods.shared.scan import Scan, lay, stacked
from methods.shared.windows import gather
from methods.training.loop import adamw, check_numbers, muon_and_adamw, save_half
from methods.training.pairs import Pairs
from methods.training.pictures import Key, Kind, Pictures, Scrolls

RATES = {"lora": 1e-4, "full": 1e-5}
CHOICES = {"tune": tuple(RATES), "optimiser": ("adamw", "muon")}
WEIGHT = 8.0  # most that an error of x0 counts
SHORT = 1024  # tokens up to which plain matrix products are faster on a CPU than its fused kernel
HELD_OUT, TIMES = 8, (0.2, 0.4, 0.6, 0.8)  # pictures of each kind, and times, of the card's figures


class Alignment:
    """The recipe of one training; see :func:`alignment` for the knobs."""

    name = "scrollscape"
    card = "card.json"
    steps = 10_000

    def __init__(
        self, backbone: Any, data: Scrolls, knobs: Mapping[str, Any], weights: str = "", work: Path = Path()
    ) -> None:
        self.backbone, self.pictures, self.knobs = backbone, data, knobs
        self.cache = work / self.name / "latents"
        transformer = backbone.transformer.requires_grad_(False)
        if knobs["checkpointing"]:
            transformer.enable_gradient_checkpointing()
        self._worn = ExitStack()  # for good: blocks that are computed anew want their pairs
        self.low = None  # what all weights compute in, where they are kept in more
        if knobs["tune"] == "full":
            self.low = None if transformer.dtype == torch.float32 else transformer.dtype
            self.module: nn.Module = transformer.float().requires_grad_(True)
        else:
            shapes = lora.layers(transformer, ADAPTED)
            self.module = Pairs(shapes, knobs["rank"], knobs["alpha"]).to(backbone.device)
            self._worn.enter_context(trained.adapted(transformer, self.module.adapter()))
        self.data, self.batch, self.lr = data.about, knobs["batch"], knobs["lr"] or RATES[knobs["tune"]]
        self.accumulate, self.gradient_norm, self.averaged = knobs["accumulate"], knobs["clip"], knobs["averaged"]
        schedule = backbone.parts["scheduler"]
        self.x0 = schedule.get("prediction_type") == "sample"
        self.shift = knobs["shift"] or float(schedule.get("flow_shift") or schedule.get("shift") or 1.0)
        self.settings = {
            **knobs, "lr": self.lr, "shift": self.shift, "backbone": backbone.name, "weights": weights,
            "precision": backbone.precision, "pictures": data.identity,
        }  # fmt: skip
        self._source = [data.identity, weights]
        self._blank: Tensor | None = None
        self.ways = {kind: ways(backbone, kind, knobs["frames"]) for kind in data.kinds}

    def optimisers(self) -> list[torch.optim.Optimizer]:
        if self.knobs["optimiser"] == "muon":
            return muon_and_adamw(self.module, [self.module.get_submodule("blocks")], self.lr)
        return [adamw(self.module.parameters(), self.lr)]

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        shares = np.array([kind.share for kind in self.pictures.kinds])
        kind = self.pictures.kinds[int(rng.choice(len(shares), p=shares / shares.sum()))]
        keys = [self.pictures.draw(kind, rng) for _ in range(self.batch)]
        blank = [bool(rng.random() < self.knobs["drop"]) for _ in keys]
        scan = self.ways[kind][int(rng.integers(len(self.ways[kind])))]._replace(backwards=bool(rng.random() < 0.5))
        u = torch.rand(self.batch, generator=noise)
        t = self.shift * u / (1 + (self.shift - 1) * u)
        return self.error(kind, keys, scan, t, noise, blank, rng)

    def error(
        self, kind: Kind, keys: list[Key], scan: Scan, t: Tensor, noise: torch.Generator, blank: list[bool],
        rng: np.random.Generator, positions: bool = True,
    ) -> Tensor:  # fmt: skip
        """The mean square of the velocity's error on clips at times (n), texts left out where ``blank``.

        Args:
            rng: draws the part of a picture that frames show, where they do not show all of it.
            positions: whether tokens stand where they are on the canvas.
        """
        z, text = self.encoded(kind, keys, blank)
        z = self._part(z, scan, rng)
        eps = torch.randn(z.shape, generator=noise).to(z)
        windows = scan.windows(self.backbone.patch)
        x0, eps = (torch.cat([stacked(gather(row[None], windows)) for row in rows]) for rows in (z, eps))
        t = t.to(z).view(-1, 1, 1, 1, 1)
        with placed(self.backbone, axes_of(self.backbone, self.name)) as table, self._arithmetic(scan):
            table.positions = scan.positions().to(z.device) if positions else None
            answer = self._answer((1 - t) * x0 + t * eps, t.flatten(), text)
        if self.x0:
            return ((1 / t**2).clamp(max=WEIGHT) * (answer - x0).square()).mean()
        return (answer - (eps - x0)).square().mean()

    def _answer(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        network, dtype = self.backbone.transformer, self.backbone.transformer.dtype
        out: Tensor = network(
            hidden_states=x.to(dtype), timestep=1000 * t, encoder_hidden_states=text.to(dtype), return_dict=False
        )[0]
        return out.float()

    def _arithmetic(self, scan: Scan) -> AbstractContextManager[Any]:
        device = self.backbone.device.type
        if self.low is not None:
            return torch.autocast(device, self.low)
        short = device == "cpu" and len(scan.places) * scan.frame[0] * scan.frame[1] <= SHORT
        plain = short and not self.knobs["checkpointing"]  # blocks computed anew, outside of this, want one kernel
        return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()

    def _part(self, z: Tensor, scan: Scan, rng: np.random.Generator) -> Tensor:
        """The part of canvases (n, c, h, w) that frames show, at a drawn place."""
        sides = [side * self.backbone.patch for side in scan.covered]
        y, x = (
            self.backbone.patch * int(rng.integers(0, (have - side) // self.backbone.patch + 1))
            for have, side in zip(z.shape[-2:], sides)
        )
        return z[..., y : y + sides[0], x : x + sides[1]]

    @torch.no_grad()
    def encoded(self, kind: Kind, keys: list[Key], blank: list[bool]) -> tuple[Tensor, Tensor]:
        """Latents (n, c, h, w) of pictures, and umT5's embeddings of their texts or of "", kept in the work folder."""
        paths = [self.cache / f"{digest([*self._source, kind, key])}.safetensors" for key in keys]
        new = {path: key for path, key in zip(paths, keys) if not path.exists()}
        if new:
            shown = [self.pictures.look(kind, key) for key in new.values()]
            x = torch.from_numpy(np.stack([rgb for rgb, _ in shown])).permute(0, 3, 1, 2)[:, :, None] / 255
            for path, z, (_, text) in zip(new, self.backbone.encode(x.to(self.backbone.device)), shown):
                embeds = self.read(text)[0]
                rows = int(embeds.any(dim=1).nonzero().max()) + 1  # behind a text are zeros
                _keep({"z": z[:, 0], "text": embeds[:rows]}, path)
        if self._blank is None:
            self._blank = self.read("")
        kept, most = [load_file(path) for path in paths], self._blank.shape[1]
        texts = [pad(one["text"], (0, 0, 0, most - len(one["text"])))[None].to(self._blank) for one in kept]
        texts = [self._blank if left_out else text for text, left_out in zip(texts, blank)]
        return torch.stack([one["z"] for one in kept]).to(self.backbone.device), torch.cat(texts)

    @torch.no_grad()
    def read(self, text: str) -> Tensor:
        """umT5's embeddings of a text, of one row."""
        embeds: Tensor = self.backbone.condition(text).embeds.chunk(2)[1]
        return embeds

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss on fresh pictures with tokens at their places on the canvas, and with Wan's own positions."""
        found = {}
        for kind in self.pictures.kinds if self.pictures.fresh else ():
            rng = np.random.default_rng(2**44)
            keys = [self.pictures.draw(kind, rng, fresh=True) for _ in range(HELD_OUT)]
            for label, placed_there in (("loss", True), ("loss_plain", False)):
                noise, losses = torch.Generator().manual_seed(2**44), []
                for t in torch.tensor(TIMES):
                    told = kind, keys, self.ways[kind][0], t.expand(HELD_OUT), noise, [False] * HELD_OUT, rng
                    losses.append(self.error(*told, positions=placed_there))
                found[f"{label}_{kind.width}x{kind.height}"] = float(torch.stack(losses).mean())
        return found

    def save(self, folder: Path) -> None:
        if self.knobs["tune"] == "full":
            save_half(self.module, folder / trained.WHOLE)
            return
        pairs = self.module.adapter().items()  # type: ignore[operator]
        half = {name: pair._replace(a=pair.a.half().cpu(), b=pair.b.half().cpu()) for name, pair in pairs}
        lora.save(half, folder / lora.FILE)


def _keep(tensors: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_suffix(f".{os.getpid()}")
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, temp)
    temp.replace(path)


def ways(backbone: Any, kind: Kind, frames: int | None) -> tuple[Scan, ...]:
    """The cameras that may pass over a canvas, there: steps from the usual one to half a frame.

    Args:
        frames: at most in a clip; None for those of the native clip.
    """
    native, unit = backbone.native, backbone.factor * backbone.patch
    most = frames or native[0]
    size = (kind.height // unit, kind.width // unit)
    along = int(kind.width > kind.height)
    usual = lay(size, (most, *(side // backbone.patch for side in native[1:])), ("down", "right")[along])
    found = []
    for step in range(usual.step, max(usual.step, usual.frame[along] // 2) + 1):
        stops = [1, 1]
        stops[along] = min((size[along] - usual.frame[along]) // step + 1, most)
        found.append(Scan(usual.frame, step, (stops[0], stops[1])))
    return tuple(found)


@trainer
def alignment(
    backbone: Choice,
    data: Pictures,
    *,
    tune: str = "lora",
    rank: int = RANK,
    alpha: float = 64.0,
    optimiser: str = "adamw",
    lr: float | None = None,
    batch: int = 1,
    accumulate: int = 1,
    clip: float = 1.0,
    averaged: bool = False,
    drop: float = 0.1,
    shift: float | None = None,
    size: int | None = None,
    frames: int | None = None,
    checkpointing: bool = True,
) -> Callable[[Any, Path, Path], Alignment]:
    """Train ScrollScape's alignment.

    Args:
        tune: what learns: ``lora``, or ``full``, all weights of the transformer.
        rank, alpha: of the LoRA, whose factor is alpha / rank.
        optimiser: ``adamw``, or with ``full`` also ``muon``.
        lr: its rate; none is 1e-4 for a LoRA, 1e-5 for all weights.
        batch: pictures of one size that go through the network together.
        accumulate: so many times a step.
        clip: most that a step's gradient measures.
        averaged: save a moving average of the weights of all steps, not the last.
        drop: how often a text is left out.
        shift: of the times; none is the schedule's.
        size: short side of the pictures in px; none is the native frame's.
        frames: most in a clip; none is the native clip's.
        checkpointing: compute blocks anew in the backward pass: a third slower, in far less memory.

    Returns:
        what makes the recipe for :func:`methods.training.loop.train`.

    Raises:
        UsageError: knobs out of range, a network that is no Wan, pictures that are too small; before anything is
            loaded.
    """
    knobs = {k: v for k, v in locals().items() if k not in ("backbone", "data")}
    _check(knobs)
    outline = outlined(backbone.outline)
    unit, native = outline.factor * outline.patch, [side * outline.factor for side in outline.native[1:]]
    side = knobs["size"] = size or min(native)
    if side % unit:
        raise UsageError(
            f"scrollscape: size={side} is no whole tokens of {unit} px; nearest: {max(1, side // unit) * unit}"
        )
    scrolls = data.scrolls(side, unit, max(native))
    return lambda bank, work, out: Alignment(backbone.load(), scrolls, knobs, backbone.describe().weights_digest, work)


def _check(knobs: Mapping[str, Any]) -> None:
    for knob, values in CHOICES.items():
        if knobs[knob] not in values:
            raise UsageError(f"scrollscape: unknown {knob} {knobs[knob]!r}; {near(knobs[knob], values)}")
    if (knobs["tune"], knobs["optimiser"]) == ("lora", "muon"):
        raise UsageError("scrollscape: optimiser=muon is for whole matrices; set tune=full, or take adamw")
    check_numbers("scrollscape", knobs)
