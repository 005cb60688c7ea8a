"""ControlNet (Zhang et al., ICCV 2023, arXiv:2302.05543) beside a frozen U-Net, as diffusers' ``ControlNetModel``.

The control picture travels with the prompt: rows ``control`` of :class:`methods.backbones.Conditioning.added`,
(2m, 3, height, width) in [0, 1] at the size of the window in pixels, both halves alike, so that guidance cuts it into
batches as it cuts text. Within :func:`watched` the U-Net takes it out of there, asks the ControlNet, and adds its
answers to the skips and to the middle block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ROWS = "control"  # what the rows are called

Answer = Callable[..., tuple[Any, Any]]


@contextmanager
def watched(unet: Any, ask: Answer, scale: Callable[[], float] = lambda: 1.0) -> Iterator[None]:
    """Let a U-Net work with a ControlNet; without rows ``control``, or at scale 0, it works as before.

    Args:
        ask: the ControlNet: sample, timestep, text, picture, scale, added conditions (SDXL's) -> residuals.
        scale: of the residuals, asked for at every call.
    """

    def before(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        added = dict(named.get("added_cond_kwargs") or {})
        picture, factor = added.pop(ROWS, None), scale()
        if picture is None:
            return None
        named = {**named, "added_cond_kwargs": added or None}
        if factor == 0:
            return given, named
        sample, t = given
        down, middle = ask(
            sample, t, named["encoder_hidden_states"], picture, factor, added_cond_kwargs=added or None,
            return_dict=False,
        )  # fmt: skip
        return given, {**named, "down_block_additional_residuals": down, "mid_block_additional_residual": middle}

    hook = unet.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
