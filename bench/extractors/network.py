"""Wrappers of the networks of :mod:`bench.extractors`; importing this module imports torch.

Every wrapper runs in evaluation mode, fp32 without TF32, in batches of a fixed size, and takes uint8 crops.
Weights are read from safetensors or by torch's restricted loader, never by unrestricted pickle.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bench.errors import UsageError
from bench.extractors.locate import Found

BATCH = 32
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@contextmanager
def exact() -> Iterator[None]:
    """No gradients, no TF32, no autotuned kernels; the caller's settings come back afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode(), torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a safetensors file, or from a PyTorch file through the restricted unpickler."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state: dict[str, Tensor] = load_file(path)
        return state
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    found = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise UsageError(f"{path} holds no state dict: expected names with tensors, got a {type(found).__name__}")
    return dict(found)


def fill(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a state dict whose keys and shapes must all be the model's own; ``UsageError`` names those that are not."""
    own = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    given = {k: tuple(v.shape) for k, v in state.items()}
    missing, unexpected = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    shapes = [f"{k} {given[k]}, not {own[k]}" for k in sorted(own.keys() & given.keys()) if own[k] != given[k]]
    if missing or unexpected or shapes:
        raise UsageError(
            f"{path} is not a {type(model).__name__} of the expected architecture: {len(missing)} keys missing "
            f"{missing[:3]}, {len(unexpected)} unexpected {unexpected[:3]}, {len(shapes)} of another shape {shapes[:3]}"
        )
    model.load_state_dict(state)


def resized(crop: np.ndarray, width: int, height: int, filter: str = "bicubic") -> np.ndarray:
    """A uint8 crop resized by Pillow (antialiased); returned as it is if it has the size already."""
    if crop.shape[:2] == (height, width):
        return crop
    return np.asarray(Image.fromarray(crop).resize((width, height), RESAMPLING[filter]))


class Network:
    """What all wrappers share: identity, batching, and refusing what their role cannot do."""

    dim = 0

    def __init__(self, found: Found, device: str) -> None:
        self.name, self.role, self.digest, self.device = found.name, found.role, found.digest, device

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        raise self._cannot("embed pictures", "dino, clip or inception")

    def patches(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        raise self._cannot("give patch tokens", "dino")

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        raise self._cannot("embed text", "clip")

    def logits(self, features: np.ndarray) -> np.ndarray:
        raise self._cannot("classify", "inception")

    def distances(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        raise self._cannot("compare pairs", "lpips or style")

    def _cannot(self, what: str, role: str) -> UsageError:
        return UsageError(f"extractor {self.name!r} (role {self.role}) cannot {what}; name one of role {role}")

    def _run(self, items: Sequence[Any], step: Callable[[Sequence[Any]], Tensor], width: int) -> np.ndarray:
        """Apply ``step`` in batches of ``BATCH`` and stack the results into (n, width) float32."""
        with exact():
            parts = [step(items[i : i + BATCH]).float().cpu().numpy() for i in range(0, len(items), BATCH)]
        return np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, width), np.float32)

    def _rows(self, features: Sequence[Any]) -> Tensor:
        return torch.from_numpy(np.asarray(features, dtype=np.float32)).to(self.device)

    def _tensor(self, crops: Sequence[np.ndarray]) -> Tensor:
        """(n, 3, h, w) float32 in 0..255 from crops of one size."""
        return torch.from_numpy(np.stack(crops)).to(self.device).permute(0, 3, 1, 2).float()


class _Normalised(Network):
    """Networks with a square input and a mean and deviation per channel."""

    size: int
    mean: Tensor
    std: Tensor
    filter = "bicubic"

    def _set_input(self, size: int, mean: Sequence[float], std: Sequence[float], filter: str = "bicubic") -> None:
        self.size, self.filter = size, filter if filter in RESAMPLING else "bicubic"
        self.mean = torch.tensor(mean, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(std, device=self.device).view(1, 3, 1, 1)

    def _input(self, crops: Sequence[np.ndarray]) -> Tensor:
        square = [resized(c, self.size, self.size, self.filter) for c in crops]
        return (self._tensor(square) / 255 - self.mean) / self.std


LPIPS_MIN = 32  # px; below it the deeper layers have nothing left, so smaller crops are enlarged


def linear_stack(state: dict[str, Tensor], inputs: int, path: Path) -> nn.Sequential:
    """The linear layers of a score head, numbered keys ``N.weight`` and ``N.bias``, one after the other.

    The official heads have dropout between their layers and no activation, so in use they are one linear map.

    Raises:
        UsageError: other keys, or layers that do not lead from ``inputs`` features to one number.
    """
    numbers = sorted({int(k.split(".")[0]) for k in state if re.fullmatch(r"\d+\.(weight|bias)", k)})
    wide = [tuple(state[f"{i}.weight"].shape) if f"{i}.weight" in state else () for i in numbers]
    expected = [inputs, *(w[0] for w in wide if w)]
    if not wide or any(len(w) != 2 or w[1] != e for w, e in zip(wide, expected)) or expected[-1] != 1:
        raise UsageError(
            f"{path} is not a score head on {inputs} features: its layers are {dict(zip(numbers, wide))}, "
            f"expected weights (a, {inputs}), (b, a), ..., (1, z)"
        )
    head = nn.Sequential(OrderedDict((str(i), nn.Linear(w[1], w[0])) for i, w in zip(numbers, wide)))
    fill(head, state, path)
    return head
