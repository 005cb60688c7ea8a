"""Token maps of PanoLlama's released code on a small random network, and that network."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from methods.backbones.llamagen.convert import mismatch
from methods.backbones.llamagen.gpt import GPT, GPTConfig

GOLDENS = Path(__file__).parents[1] / "goldens"
CASES = ("panollama_h_c24", "panollama_h_c8")
SIDE = 32


@cache
def golden(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(entry, arrays) of a case."""
    entry = json.loads((GOLDENS / "panollama.json").read_text())["cases"][name]
    with np.load(GOLDENS / f"{name}.npz") as stored:
        return entry, {k: torch.from_numpy(stored[k]) for k in stored.files}


@cache
def network(dtype: torch.dtype) -> GPT:
    """The transformer of all cases."""
    config = json.loads((GOLDENS / "panollama.json").read_text())["gpt"]
    gpt = GPT(GPTConfig(**{k: v for k, v in config.items() if k in GPTConfig.__dataclass_fields__}))
    assert gpt.config.hidden == config["ffn_hidden"]
    state = load_file(GOLDENS / "panollama_gpt.safetensors")
    assert mismatch(gpt, state) == ""
    gpt.load_state_dict(state)
    return gpt.to(dtype).eval().requires_grad_(False)
