"""FLUX from latents to latents on three groups of tokens, as Scale-DiT calls it (arXiv:2510.16325)."""

from __future__ import annotations

from typing import Any

from methods.backbones import Conditioning, Tensor
from methods.shared import lora
from methods.shared.flux_streams import Inputs, predict
from methods.shared.positions import Axis, axes_of, grid, plain, rotary
from methods.shared.sparse_attention import choose
from methods.shared.token_layout import Layout


class Bridged:
    """The network on three groups of tokens: from latents to latents.

    Args:
        backbone: a FLUX.
        adapter: of the bridge.
        layout: of the tokens.
        conditioning: the prompt; its conditional row is used.
        guidance: the network's input.
        ntk: times the rotary base.

    Attributes:
        attention: how it is computed here (:func:`methods.shared.sparse_attention.choose`).
    """

    def __init__(
        self,
        backbone: Any,
        adapter: lora.Adapter,
        layout: Layout,
        conditioning: Conditioning,
        guidance: float,
        ntk: float = 10.0,
    ) -> None:
        import torch

        self.backbone, self.adapter, self.layout = backbone, adapter, layout
        self.high, self.low = (order.to(backbone.device) for order in layout.orders)
        self.table = turned(layout, axes_of(backbone, "scale-dit"), ntk, backbone.device)
        self.attention = choose(layout, backbone.device)
        self.text = conditioning.embeds.chunk(2)[1]
        self.pooled = conditioning.added["pooled_projections"].chunk(2)[1]
        self.guidance = torch.full((1,), guidance, dtype=torch.float32, device=backbone.device)
        self._call = backbone.meter.remember(self._answer)

    def __call__(self, x: Tensor, low: Tensor | None, t: Tensor) -> Tensor:
        """The velocity at latents (1, c, h, w), beside clean latents (1, c, h / ratio, w / ratio) or none."""
        with self.backbone.meter.stage("denoise"):
            answer: Tensor = self._call(x, low, t)
        return answer

    def _answer(self, x: Tensor, low: Tensor | None, t: Tensor) -> Tensor:
        self.backbone.meter.count(1)
        patch = self.backbone.patch
        inputs = Inputs(
            packed(x, patch)[:, self.high], None if low is None else packed(low, patch)[:, self.low],
            self.text, self.pooled, self.backbone.at(t, 1) / 1000, self.guidance,
        )  # fmt: skip
        out = predict(self.backbone.transformer, inputs, self.adapter, self.table, self.attention.attend)
        return unpacked(out[:, self.high.argsort()], self.layout.grid, patch).to(x.dtype)


def packed(latents: Tensor, patch: int) -> Tensor:
    """Latents (n, c, h, w) as tokens in raster order, (n, tokens, c patch^2)."""
    from torch.nn.functional import pixel_unshuffle

    return pixel_unshuffle(latents, patch).flatten(2).transpose(1, 2)


def unpacked(tokens: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Tokens in raster order as latents; undoes :func:`packed`."""
    from torch.nn.functional import pixel_shuffle

    return pixel_shuffle(tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *grid), patch)


def turned(layout: Layout, axes: tuple[Axis, ...], ntk: float, device: Any = None) -> tuple[Tensor, Tensor]:
    """Cosines and sines of all tokens in the order of the sequence: text at 0, low tokens ``ratio`` positions apart.

    The base is ``ntk`` times the network's where there are low tokens, the network's own else.
    """
    import torch

    high, low = layout.orders
    places = [torch.zeros((layout.text, 3)), grid((1, *layout.grid))[high]]
    if layout.low:
        places.append(grid((1, *layout.low_grid), step=layout.ratio)[low])
    rules = [plain(axis.theta * (ntk if layout.low else 1.0)) for axis in axes]
    return rotary(torch.cat(places).to(device), [axis.dim for axis in axes], rules)
