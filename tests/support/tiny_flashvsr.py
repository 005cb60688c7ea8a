"""A small random FlashVSR under the released names, file by file as it is released."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from methods.scrollsr.decoder import Decoder
from methods.scrollsr.files import DECODER, PROJECTOR, PROMPT, TRANSFORMER
from methods.scrollsr.projector import Projector
from methods.scrollsr.transformer import Sizes, Transformer

SIZES = Sizes(dim=128, in_dim=16, ffn_dim=64, text_dim=8, freq_dim=16, num_heads=1, num_layers=1)


def write_flashvsr(folder: Path, seed: int = 0) -> Path:
    """The folder, with the four files in it. One block, one head of the released width."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = Transformer(SIZES), Projector((4, 6), SIZES.dim), Decoder((2, 2, 1, 1))
        for name, value in parts[0].named_parameters():
            if name.endswith("modulation"):
                torch.nn.init.normal_(value, std=0.3)
        for value in parts[2].parameters():  # so that no rectifier is dead for all it is given
            torch.nn.init.kaiming_normal_(value) if value.ndim > 1 else torch.nn.init.constant_(value, 0.1)
        save_file(parts[0].state_dict(), folder / TRANSFORMER)
        torch.save({k: v.bfloat16() for k, v in parts[1].state_dict().items()}, folder / PROJECTOR)
        torch.save(parts[2].state_dict(), folder / DECODER)
        torch.save(torch.randn(1, 3, SIZES.text_dim).bfloat16(), folder / PROMPT)
    return folder
