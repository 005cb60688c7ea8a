"""LlamaGen behind :class:`methods.backbones.TokensBackbone`: text to a grid of tokens, one after the other, to pixels.

Sun et al., "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation", 2024, arXiv:2406.06525, in its
512 px text-to-image form: GPT-XL (:mod:`methods.backbones.llamagen.gpt`), the tokenizer VQ-16
(:mod:`methods.backbones.llamagen.vq`) and features of FLAN-T5-XL. It loads a folder written by
:mod:`methods.backbones.llamagen.convert`; the released weights (MIT; FLAN-T5 Apache-2.0) were never at hand here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import PrerequisiteError, UsageError
from bench.extractors.weights.manifest import offline
from methods.backbones.device import target
from methods.backbones.factory import Factory
from methods.backbones.identity import Weights, locate, quiet, world_folder
from methods.backbones.llamagen.convert import LAYOUT, blank, from_fetched, mismatch, released
from methods.backbones.llamagen.text import clean
from methods.backbones.loading import BlankTokenizer
from methods.backbones.meter import SharedMeter
from methods.backbones.protocols import Conditioning

if TYPE_CHECKING:
    from torch import Tensor

    from methods.backbones.llamagen.gpt import Walk


class LlamaGen:
    """Transformer, image tokenizer and text encoder, frozen.

    Transformer and text encoder run in ``precision`` (bf16 is the released choice; at fp16, which T5 overflows, the
    text encoder stays in float32), the image tokenizer in float32 (float64 at ``fp64``). On CUDA, without TF32.

    Args:
        name, weights: who this is, as in :class:`methods.backbones.BackboneInfo`.
        parts: ``gpt``, ``vq``, ``t5``, ``tokenizer``.
        device: cpu, cuda, cuda:1, mps, or meta (shapes without numbers).
        precision: fp32, bf16, fp16 (GPU only), fp64.
        batch: pictures of a suite that may walk together; more take more memory. Tokens are those of one alone where
            products of one shape round alike, however many there are: on CPUs, as tests show; a GPU's library promises
            nothing of the kind.
        compile: on CUDA, torch.compile of the step of one token, replayed as a CUDA graph. Rounding differs, and a
            token may hang on it. Elsewhere it changes nothing.

    Raises:
        UsageError: unknown options, or parts that do not fit each other.
        PrerequisiteError: a device that is not here.
    """

    family = "tokens"

    def __init__(
        self, name: str, weights: str, parts: Mapping[str, Any], device: str = "cpu", precision: str = "fp32",
        batch: int = 1, compile: bool = False,
    ) -> None:  # fmt: skip
        import torch

        if batch < 1:
            raise UsageError(f"{name}: batch is how many pictures may walk together, 1 or more; got {batch}")
        self.batch, self.compile = batch, compile

        self.device, network, self.dtype = target(device, precision)
        self.name, self.weights, self.precision = name, weights, precision
        self.gpt, self.vq, self.t5, self.tokenizer = (parts[k] for k in ("gpt", "vq", "t5", "tokenizer"))
        gpt, vq = self.gpt.config, self.vq.config
        if gpt.vocab_size != vq.codebook_size or gpt.caption_dim != self.t5.config.d_model:
            raise UsageError(
                f"{name}: the transformer speaks {gpt.vocab_size} tokens and reads text {gpt.caption_dim} wide; the "
                f"tokenizer has {vq.codebook_size} codes, the text encoder is {self.t5.config.d_model} wide"
            )
        text = self.dtype if precision == "fp16" else network
        for module, dtype in ((self.gpt, network), (self.vq, self.dtype), (self.t5, text)):
            torch.nn.Module.to(module, self.device, dtype).eval().requires_grad_(False)
        if self.device.type == "cuda":  # repeatable pictures, and fp32 that is fp32
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
        self.side, self.factor, self.codes = isqrt(gpt.block_size), vq.factor, gpt.vocab_size
        self.meter = SharedMeter(str(self.device))

    @property
    def parts(self) -> dict[str, Any]:
        """The networks and the tokenizer, by the names they were given under."""
        return {"gpt": self.gpt, "vq": self.vq, "t5": self.t5, "tokenizer": self.tokenizer}

    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        """Features (2, 120, 2048) and ``added["mask"]`` (2, 120), padding at the left and zero.

        Row 0 is the learned empty prompt, under the mask of row 1 as in the released code. PROPOSAL: a negative
        prompt, which the released code does not know, takes the place of row 0 with a mask of its own. Captions are
        cleaned as in training (:func:`methods.backbones.llamagen.text.clean`), and cut at 120 tokens, which flags
        ``prompt-truncated``.
        """
        import torch

        with self.meter.stage("text"), torch.no_grad():
            cond, shown = self._encode(prompt)
            if negative:
                uncond, hidden = self._encode(negative)
            else:
                uncond, hidden = self.gpt.cls_embedding.uncond_embedding.to(cond.dtype), shown
        return Conditioning(torch.stack([uncond, cond]), {"mask": torch.stack([hidden, shown])})

    def _encode(self, text: str) -> tuple[Tensor, Tensor]:
        """(features (slots, width), mask (slots)) of one text, moved to the right end."""
        import torch

        slots, text = self.gpt.config.cls_token_num, clean(text)
        if len(self.tokenizer(text).input_ids) > slots:
            self.meter.flag("prompt-truncated")
        ids = self.tokenizer(
            [text], padding="max_length", padding_side="right", max_length=slots, truncation=True, return_tensors="pt"
        )
        mask = ids.attention_mask.to(self.device)
        told = None if self.device.type == "meta" else mask  # transformers asks a mask whether it is all true
        features = self.t5(input_ids=ids.input_ids.to(self.device), attention_mask=told)[0][0]
        mask = mask[0]
        moved = (torch.arange(slots, device=self.device) + mask.sum()) % slots  # padding first, then the text
        shown = mask.flip(0)
        return (features[moved] * shown[:, None]).to(self.gpt.output.weight.dtype), shown.bool()

    def walk(self, grid: tuple[int, int], guidance: float, pictures: int = 1) -> Walk:
        """A fresh walk over a grid of (height, width) tokens; see :class:`methods.backbones.TokenWalk`."""
        from methods.backbones.llamagen.gpt import Walk  # imports torch, and plans need identities only

        if not self.compile or self.device.type != "cuda":
            return Walk(self.gpt, grid, guidance, self.meter, pictures)
        asked = grid, guidance, pictures
        if asked not in self._walks:  # kept, as a graph reads from where its first walk lies
            self._walks.clear()
            self._walks[asked] = Walk(self.gpt, grid, guidance, self.meter, pictures).compiled()
        self._walks[asked].reset()
        return self._walks[asked]

    @cached_property
    def _walks(self) -> dict[Any, Walk]:
        return {}

    def decode(self, tokens: Tensor) -> Tensor:
        """Picture (3, h * 16, w * 16) in [0, 1] of tokens (h, w), the whole map at once."""
        with self.meter.stage("decode"):
            picture: Tensor = self.vq.decode(tokens.to(self.device))
        return picture

    def encode(self, image: Tensor) -> Tensor:
        """Tokens (h, w) of a picture (3, h * 16, w * 16) in [0, 1]."""
        with self.meter.stage("encode"):
            tokens: Tensor = self.vq.encode(image.to(self.device, self.dtype))
        return tokens


def skeleton(
    folder: Path | None = None, device: str = "meta", precision: str = "fp32", batch: int = 1, compile: bool = False
) -> LlamaGen:
    """The full-size backbone from ``configs/llamagen.json``: on the meta device every shape and cost, no numbers.

    With a ``folder``, the backbone that lies there.
    """
    return _blank("llamagen", released() if folder is None else _sizes(folder), device, precision, batch, compile)


def _sizes(folder: Path) -> dict[str, dict[str, Any]]:
    """The configuration of every part of a folder."""
    return {part: json.loads((folder / part / "config.json").read_text(encoding="utf-8")) for part in LAYOUT}


def _blank(name: str, sizes: Mapping[str, Mapping[str, Any]], *place: Any) -> LlamaGen:
    import torch
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"):
        encoder = T5EncoderModel(T5Config(**sizes["t5"]))
    parts = {"t5": encoder, "tokenizer": BlankTokenizer(sizes["gpt"]["cls_token_num"])}
    return LlamaGen(name, "", {**parts, **{k: blank(k, sizes[k]) for k in ("gpt", "vq")}}, *place)


def _locate(model: str, **_: Any) -> Weights:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise PrerequisiteError(
            f"no folder {model!r}: LlamaGen loads a folder that is made from the released files with\n"
            f"  scrollbench weights fetch llamagen-t2i flan-t5-xl && "
            f"python -m methods.backbones.llamagen.convert --out {folder}"
        )
    return locate(str(folder), None, LAYOUT)


def _load(model: str, device: str = "cpu", precision: str = "fp32", batch: int = 1, compile: bool = False) -> LlamaGen:
    """LlamaGen text-to-image at 512 px, GPT-XL: tokens one by one (MIT).

    ``model`` is a folder written by ``python -m methods.backbones.llamagen.convert``.
    """
    target(device, precision)  # before anything large is read
    return _loaded("llamagen", _locate(model), device, precision, batch, compile)


def _load_world(device: str = "cpu", precision: str = "fp32", batch: int = 1, compile: bool = False) -> LlamaGen:
    """The embedded miniature of LlamaGen's layout: text to 32 px squares of ScrollWorld, trained from scratch."""
    target(device, precision)
    return _loaded("world-llamagen", _locate_world(), device, precision, batch, compile)


def _locate_world(**_: Any) -> Weights:
    return locate(str(world_folder("world-llamagen", "gpt/config.json")), None, LAYOUT)


def _blank_world(
    folder: Path | None = None, device: str = "meta", precision: str = "fp32", batch: int = 1, compile: bool = False
) -> LlamaGen:
    sizes = _sizes(folder or _locate_world().folder)
    return _blank("world-llamagen", sizes, device, precision, batch, compile)


def _loaded(name: str, weights: Weights, *place: Any) -> LlamaGen:
    parts = {part: _fill(weights.folder, part) for part in ("gpt", "vq")}
    return LlamaGen(name, weights.digest, {**parts, **_load_text(weights.folder)}, *place)


def _fill(folder: Path, part: str) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    module = blank(part, json.loads((folder / part / "config.json").read_text(encoding="utf-8")))
    try:
        state = load_file(folder / part / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{folder}: the weights of {part} do not load: {error}") from error
    wrong = mismatch(module, state)
    if wrong:
        raise UsageError(f"{folder}: {part} does not fit its config: {wrong}")
    module.load_state_dict(state, assign=True)
    return module


def _load_text(folder: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from transformers import AutoTokenizer, T5EncoderModel

    try:
        with quiet(), offline():
            tokenizer = AutoTokenizer.from_pretrained(folder / "t5", local_files_only=True)
            encoder, report = T5EncoderModel.from_pretrained(
                folder / "t5", dtype="auto", local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"{folder}: the text encoder in t5 does not load: {error}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UsageError(f"{folder}: t5 is partial: {len(missing)} tensors missing, first {missing[0]!r}")
    return {"t5": encoder, "tokenizer": tokenizer}


llamagen = Factory("llamagen", "tokens", _load, _locate, skeleton, make=from_fetched)
world_llamagen = Factory("world-llamagen", "tokens", _load_world, _locate_world, _blank_world)
