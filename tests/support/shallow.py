"""Full-size networks on the meta device, without the blocks that do to a shape what others did."""

from __future__ import annotations

from typing import Any

from torch import nn

REPEATED = (
    "transformer_blocks",
    "single_transformer_blocks",
    "blocks",
    "block",
    "layers",
)  # of diffusers, transformers


def shallow(*networks: Any) -> None:
    """Leave the first block of every kind, and the last one; what is no network is passed over.

    Blocks of a kind have layers of the same names and sizes, so that one more of them gives the same shape once more.
    Sizes are to be counted before.
    """
    for module in [m for n in networks if isinstance(n, nn.Module) for m in n.modules()]:
        for name in REPEATED:
            blocks = getattr(module, name, None)
            if isinstance(blocks, nn.ModuleList):
                first = {_kind(block): block for block in reversed(blocks)}
                kept = [b for b in blocks if b is first[_kind(b)] or b is blocks[-1]]
                setattr(module, name, nn.ModuleList(kept))


def _kind(block: nn.Module) -> Any:
    return type(block), tuple((name, p.shape) for name, p in block.named_parameters())
