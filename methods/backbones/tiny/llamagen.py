"""A tiny random LlamaGen folder: the real layout and loaders at a few hundred kilobytes, for checks and tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from methods.backbones.identity import quiet
from methods.backbones.llamagen.convert import blank

SIZES: dict[str, dict[str, Any]] = {
    "gpt": {
        "_class_name": "LlamaGenGPT", "dim": 16, "n_layer": 2, "n_head": 2, "vocab_size": 64, "block_size": 16,
        "cls_token_num": 12, "caption_dim": 16, "multiple_of": 16,
    },
    "vq": {
        "_class_name": "LlamaGenVQ", "codebook_size": 64, "codebook_embed_dim": 4, "ch": 32, "ch_mult": [1, 1],
        "num_res_blocks": 1, "z_channels": 8,
    },
}  # fmt: skip


def write_tiny_llamagen(folder: Path, seed: int = 0) -> Path:
    """Write a random backbone (squares of 4 x 4 tokens, 2 px a token, 64 codes, 12 text slots of single letters).

    The same seed writes the same weights; the global generator is left as it was. Returns ``folder``.
    """
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part, sizes in SIZES.items():
            state = {k: 0.3 * torch.randn(v.shape) for k, v in blank(part, sizes).state_dict().items()}
            state |= {k: 1 + v for k, v in state.items() if "norm" in k and k.endswith("weight")}
            (folder / part).mkdir(parents=True, exist_ok=True)
            save_file(state, folder / part / "model.safetensors")
            (folder / part / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
        letters = " abcdefghijklmnopqrstuvwxyz0123456789.,'\"-"
        pieces = ["<pad>", "</s>", "<unk>", *letters]
        config = T5Config(
            vocab_size=len(pieces), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
            feed_forward_proj="gated-gelu", dropout_rate=0.0,
        )  # fmt: skip
        encoder = T5EncoderModel(config)
    tokenizer = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    with quiet():
        encoder.save_pretrained(folder / "t5")
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=12
        ).save_pretrained(folder / "t5")
    return folder
