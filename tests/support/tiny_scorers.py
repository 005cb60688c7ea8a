"""Tiny random checkpoints of learned scorers, saved in the layouts of the official files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.support import tiny

CLIP: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 28, "layers": 2, "width": 32, "head_width": 16, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
RESNET = {**CLIP, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}}
MED: dict[str, Any] = {
    "vocab_size": 110, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "encoder_width": 64,
    "add_cross_attention": True, "type_vocab_size": 2, "pad_token_id": 0,
}  # fmt: skip
HEAD = (24, 8, 6, 4)  # widths between the features and the score


def hps(folder: Path, seed: int = 0, file: str = "HPS_v2.1_compressed.pt", config: dict[str, Any] = CLIP) -> Path:
    """An open_clip CLIP as the official file holds it: half precision, below ``state_dict``."""
    import open_clip

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    state = open_clip.CLIP(**config).state_dict()
    torch.save({"epoch": 1, "state_dict": {k: v.half() for k, v in state.items()}}, folder / file)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return folder


def mlp(inputs: int, hidden: tuple[int, ...] = HEAD) -> dict[str, torch.Tensor]:
    """The five linear layers of a score head under the official numbers, which count the dropouts between."""
    widths = (inputs, *hidden, 1)
    shapes: dict[str, tuple[int, ...]] = {}
    for number, i, o in zip((0, 2, 4, 6, 7), widths, widths[1:]):
        shapes |= {f"layers.{number}.weight": (o, i), f"layers.{number}.bias": (o,)}
    return {k: drawn(k, shape) for k, shape in shapes.items()}


def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Random weights that neither vanish nor explode through many layers."""
    if len(shape) > 1:
        return torch.randn(shape) / math.prod(shape[1:]) ** 0.5
    return 0.1 * torch.randn(shape) + (1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0)


def image_reward(
    folder: Path, seed: int = 0, *, wide: int = 64, deep: int = 2, patch: int = 8, side: int = 32,
    med: dict[str, Any] = MED, head: tuple[int, ...] = HEAD, words: list[str] | None = None,
) -> Path:  # fmt: skip
    """``ImageReward.pt`` with the official key names, its text config, and a vocabulary; attention heads of 64."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    shapes = {f"blip.visual_encoder.{k}": v for k, v in _vision_shapes(wide, deep, patch, side).items()}
    shapes |= {f"blip.text_encoder.{k}": v for k, v in _text_shapes(wide, med).items()}
    shapes |= {"blip.vision_proj.weight": (256, wide), "blip.vision_proj.bias": (256,)}
    shapes |= {"blip.text_proj.weight": (256, med["hidden_size"]), "blip.text_proj.bias": (256,)}
    state = {k: drawn(k, shape) for k, shape in shapes.items()}
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(med["max_position_embeddings"])[None]
    state |= {f"mlp.{k}": v for k, v in mlp(med["hidden_size"], head).items()}
    torch.save(state, folder / "ImageReward.pt")
    (folder / "med_config.json").write_text(json.dumps(med))
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = words or ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), ".", ","]
    words = words + [f"[unused{i}]" for i in range(med["vocab_size"] - 2 - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


def _vision_shapes(wide: int, deep: int, patch: int, side: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, wide), "pos_embed": (1, (side // patch) ** 2 + 1, wide),
        "patch_embed.proj.weight": (wide, 3, patch, patch), "patch_embed.proj.bias": (wide,),
        "norm.weight": (wide,), "norm.bias": (wide,),
    }  # fmt: skip
    linear = {"attn.qkv": (3 * wide, wide), "attn.proj": (wide, wide), "mlp.fc1": (4 * wide, wide),
              "mlp.fc2": (wide, 4 * wide)}  # fmt: skip
    for i in range(deep):
        for part, shape in linear.items():
            shapes |= {f"blocks.{i}.{part}.weight": shape, f"blocks.{i}.{part}.bias": shape[:1]}
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{norm}.weight": (wide,), f"blocks.{i}.{norm}.bias": (wide,)}
    return shapes


def _text_shapes(vision: int, med: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    wide, inner = med["hidden_size"], med["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (med["vocab_size"], wide),
        "embeddings.position_embeddings.weight": (med["max_position_embeddings"], wide),
        "embeddings.LayerNorm.weight": (wide,), "embeddings.LayerNorm.bias": (wide,),
    }  # fmt: skip
    for i in range(med["num_hidden_layers"]):
        for kind, source in (("attention", wide), ("crossattention", vision)):
            at = f"encoder.layer.{i}.{kind}"
            for name, n in (("query", wide), ("key", source), ("value", source)):
                shapes |= {f"{at}.self.{name}.weight": (wide, n), f"{at}.self.{name}.bias": (wide,)}
            shapes |= {f"{at}.output.dense.weight": (wide, wide), f"{at}.output.dense.bias": (wide,)}
            shapes |= {f"{at}.output.LayerNorm.weight": (wide,), f"{at}.output.LayerNorm.bias": (wide,)}
        at = f"encoder.layer.{i}"
        shapes |= {f"{at}.intermediate.dense.weight": (inner, wide), f"{at}.intermediate.dense.bias": (inner,)}
        shapes |= {f"{at}.output.dense.weight": (wide, inner), f"{at}.output.dense.bias": (wide,)}
        shapes |= {f"{at}.output.LayerNorm.weight": (wide,), f"{at}.output.LayerNorm.bias": (wide,)}
    return shapes


def pick(folder: Path, seed: int = 0, **sizes: int) -> Path:
    """A transformers CLIPModel folder, with the constants that older versions saved."""
    from safetensors.torch import load_file, save_file
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    both = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**both, "image_size": 28, "patch_size": 14, **sizes}
    config = CLIPConfig(text_config=both, vision_config=vision, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def aesthetic(folder: Path, seed: int = 0, head: str = "v2") -> Path:
    """A tiny CLIP folder with a head on it: one linear layer (v1) or the five of v2."""
    tiny.clip(folder, seed)
    torch.manual_seed(seed + 1)
    linear = {"weight": torch.randn(1, 16), "bias": torch.randn(1)}
    torch.save(linear if head == "v1" else mlp(16), folder / "head.pth")
    return folder


def iqa(folder: Path, seed: int = 0) -> Path:
    """A tiny CLIP with a ResNet, as an open_clip folder."""
    import open_clip
    from safetensors.torch import save_model

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = open_clip.CLIP(**RESNET)
    for p in model.visual.parameters():  # fresh, the residual branches are closed and all pictures look alike
        torch.nn.init.kaiming_normal_(p) if p.ndim > 1 else torch.nn.init.normal_(p, 0.5, 0.5)
    save_model(model, str(folder / "open_clip_model.safetensors"))
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": RESNET, "preprocess_cfg": preprocess}))
    return folder


def owl(folder: Path, seed: int = 0) -> Path:
    """A transformers OWLv2 folder: 16 patches, so 16 guesses a crop."""
    from transformers import Owlv2Config, Owlv2ForObjectDetection

    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Owlv2Config(
        text_config=sizes, vision_config={**sizes, "image_size": 64, "patch_size": 16}, projection_dim=32
    )
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    return folder


MAKERS = {"hps": hps, "reward": image_reward, "pick": pick}  # of the preference scorers, by role


def scores(net: Any, crops: list[np.ndarray], text: str = "a calm sea") -> np.ndarray:
    """A preference scorer's scores of crops, whatever its kind."""
    if net.role == "reward":
        return net.score(crops, text)
    return net.scale * net.embed(crops) @ net.embed_text([text])[0]
