"""Wrappers of the networks of :mod:`bench.extractors`; importing this module imports torch.

Every wrapper runs in evaluation mode, fp32 without TF32, in batches of a fixed size, and takes uint8 crops.
Weights are read from safetensors or by torch's restricted loader, never by unrestricted pickle.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bench.errors import UsageError
from bench.extractors import Extractor, Found, wrapper
from bench.weights import offline

BATCH = 32
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def build(found: Found, device: str = "cpu") -> Extractor:
    """Load a located extractor on a device, from its own files: a config that names a repository is not followed.

    Raises:
        UsageError: files that are torn, of another architecture, or not all that is needed.
    """
    module, _, name = wrapper(found.role, found.path).partition(":")
    kind = getattr(import_module(module), name)
    try:
        # some constructors draw weights before reading them
        with _quiet(), offline(), torch.random.fork_rng(devices=[]):
            made: Extractor = kind(found, device)
    except OSError as error:
        raise UsageError(f"extractor {found.name!r} does not load from its own files: {error}") from error
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """Loaders of other libraries chat on stdout, in warnings and in the log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


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


class Timm(_Normalised):
    """A timm model: the pooled features before its classifier (for a DINOv2 ViT the normalised CLS token).

    DINOv2 runs at 224 px with interpolated position embeddings, or as its variant says (``mean-518``: the mean of the
    normalised patch tokens at 518 px); a folder's model at the input size it states.
    """

    def __init__(self, found: Found, device: str) -> None:
        super().__init__(found, device)
        import timm

        if found.model:
            overlay = {"file": str(found.path), "hf_hub_id": None, "url": ""}
            model = timm.create_model(
                found.model, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, dynamic_img_size=True
            )
            size = int(found.variant.rpartition("-")[2] or 224)
        else:
            model = timm.create_model(f"local-dir:{found.path}", pretrained=True)
            size = int(model.pretrained_cfg["input_size"][-1])
        cfg = model.pretrained_cfg
        self._set_input(size, cfg["mean"], cfg["std"], cfg.get("interpolation", "bicubic"))
        self.model: Any = model.float().eval().requires_grad_(False).to(device)
        self.dim = int(getattr(model, "head_hidden_size", None) or model.num_features)
        self.mean_pooled = found.variant.startswith("mean")

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        def step(part: Sequence[np.ndarray]) -> Tensor:
            tokens: Tensor = self.model.forward_features(self._input(part))
            if self.mean_pooled:
                return tokens[:, self.model.num_prefix_tokens :].mean(1)
            pooled: Tensor = self.model.forward_head(tokens, pre_logits=True)
            return pooled

        return self._run(crops, step, self.dim)

    def patches(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        if self.role != "dino":
            raise self._cannot("give patch tokens", "dino")

        def step(part: Sequence[np.ndarray]) -> Tensor:
            last = self.model.forward_intermediates(
                self._input(part), indices=1, norm=False, intermediates_only=True, output_fmt="NCHW"
            )[0]
            shape.append(tuple(last.shape[1:]))
            flattened: Tensor = last.flatten(1)
            return flattened

        shape: list[tuple[int, ...]] = []
        flat = self._run(crops, step, self.dim)
        d, high, wide = shape[0] if shape else (self.dim, 1, 1)
        return flat.reshape(-1, d, high, wide).transpose(0, 2, 3, 1)

    def logits(self, features: np.ndarray) -> np.ndarray:
        if self.role != "inception" or not self.model.num_classes:
            raise self._cannot("classify", "inception")
        return self._run(
            list(features), lambda part: self.model.get_classifier()(self._rows(part)), self.model.num_classes
        )


class Clip(_Normalised):
    """An open_clip model; image and text features are scaled to unit length."""

    def __init__(self, found: Found, device: str) -> None:
        super().__init__(found, device)
        import open_clip

        name = found.model or f"local-dir:{found.path}"
        model = open_clip.create_model(name, pretrained=str(found.path) if found.model else None)
        self.tokenizer: Any = open_clip.get_tokenizer(name)
        cfg: dict[str, Any] = open_clip.get_model_preprocess_cfg(model)
        size = cfg["size"][-1] if isinstance(cfg["size"], tuple | list) else cfg["size"]
        self._set_input(int(size), cfg["mean"], cfg["std"], cfg.get("interpolation", "bicubic"))
        self.model: Any = model.float().eval().requires_grad_(False).to(device)
        self.context = int(self.tokenizer.context_length)
        self.dim = int(self.embed_text([""]).shape[1])

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        return self._run(crops, lambda part: self.model.encode_image(self._input(part), normalize=True), self.dim)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        def step(part: Sequence[str]) -> Tensor:
            encoded: Tensor = self.model.encode_text(self.tokenizer(list(part)).to(self.device), normalize=True)
            return encoded

        return self._run(texts, step, self.dim)

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Which texts have more tokens than the network reads; the rest of such a text is not scored."""
        encode = getattr(self.tokenizer, "encode", None)
        if encode is None:  # a Hugging Face tokenizer inside: its counts include both special tokens
            return [len(self.tokenizer.tokenizer(t)["input_ids"]) > self.context for t in texts]
        return [len(encode(t)) + 2 > self.context for t in texts]


class Inception(Network):
    """The Inception network of the FID literature.

    ``inception`` resizes as torch-fidelity does, inside the network (bilinear, no antialiasing); ``inception-clean`` as
    clean-fid does (:func:`bench.resize.clean_resize`). Both read torch-fidelity's copy of the weights; clean-fid itself
    loads another copy of the same network, with which this one was not compared.
    """

    dim, size = 2048, 299

    def __init__(self, found: Found, device: str) -> None:
        super().__init__(found, device)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        clean = io.BytesIO()  # torch-fidelity unpickles freely: hand it only what the restricted loader has read
        torch.save(read_weights(found.path), clean)
        clean.seek(0)
        self.model: Any = FeatureExtractorInceptionV3("scrollbench", ["2048"], feature_extractor_weights_path=clean)
        self.model.to(device)
        self.clean = found.variant == "clean"

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        def step(part: Sequence[np.ndarray]) -> Tensor:
            if self.clean:
                return self._unsized(part)
            # crops of different sizes cannot share a batch, and this network does its own resizing
            single = (torch.from_numpy(np.array(c)).to(self.device).permute(2, 0, 1)[None] for c in part)
            return torch.cat([self.model(c)[0] for c in single])

        return self._run(crops, step, self.dim)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Without the classifier's bias, as FID's literature has it."""
        weight = self.model.fc.weight
        return self._run(list(features), lambda part: self._rows(part) @ weight.T, len(weight))

    def _unsized(self, crops: Sequence[np.ndarray]) -> Tensor:
        """The network's features without its own resize, which takes bytes only."""
        from bench.resize import clean_resize

        small = np.stack([clean_resize(c, self.size, self.size) for c in crops])
        h = (torch.from_numpy(small).to(self.device).permute(0, 3, 1, 2) - 128) / 128
        *layers, _classifier = self.model.children()
        for layer in layers:
            h = layer(h)
        return h.flatten(1)


class Oracle(Network):
    """ScrollWorld's learned oracle: it reads what a picture shows; ``read`` and what it returns are the network's."""

    def __init__(self, found: Found, device: str) -> None:
        super().__init__(found, device)
        from bench.world.oracle_net import load_oracle

        self.net = load_oracle(found.path)  # small: stays on the CPU, where its readings are the same everywhere

    def read(self, rgb: np.ndarray, loop: bool = False) -> Any:
        """What one uint8 picture (32, w, 3) shows (:class:`bench.world.oracle_net.Reading`)."""
        with exact():
            return self.net.read(rgb, loop)
