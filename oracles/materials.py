"""Fixed pictures and prompts, and random weights in the layouts of the official files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the tests write the same layouts, tiny

SIZES = ((64, 64), (512, 512), (1024, 256), (97, 131), (256, 1024), (1536, 256), (300, 225))  # width, height
PROMPTS = (
    "a calm sea at dawn, oil painting",
    "",
    "sea " * 90,  # longer than any of them reads
    "Ein Haus am See, grösser; 湖边的房子 🌅",
    "A RED boat,   under 2 moons!",
)
ENTITIES = "fish &amp; chips &lt;on&gt; the pier"  # undone by OpenAI's tokenizer, not by transformers'
BERT = {  # med_config.json of ImageReward
    "vocab_size": 30524, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 512, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02, "type_vocab_size": 2,
    "pad_token_id": 0, "model_type": "bert", "architectures": ["BertModel"], "encoder_width": 768,
    "add_cross_attention": True,
}  # fmt: skip
OFFICIAL_HEAD = (1024, 128, 64, 16)


@dataclass(frozen=True)
class Place:
    """Where a run works: its folder, the user's official weights, the originals' interpreter, full sizes or not."""

    work: Path
    weights: Path | None
    rewards: Path
    full: bool

    def official(self, name: str) -> Path | None:
        """The user's folder of official files for a check, if there is one."""
        folder = self.weights / name if self.weights else None
        return folder if folder and folder.is_dir() else None

    def made(self, name: str, make: Callable[[Path], object]) -> Path:
        """A folder of random weights, written once."""
        folder = self.work / name
        if not folder.exists():
            make(folder)
        return folder


def pairs(place: Place, *more: str) -> list[tuple[Path, np.ndarray, str]]:
    """(PNG file, the same picture as uint8 (h, w, 3), prompt): every picture, with every prompt in turn."""
    from PIL import Image

    texts, found = (*PROMPTS, *more), []
    for i, (width, height) in enumerate(SIZES):
        rng = np.random.default_rng(i)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height))
        noise = rng.normal(0, 12, (height, width, 3))
        rgb = np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)
        path = place.work / f"{width}x{height}.png"
        Image.fromarray(rgb).save(path)
        found.append((path, rgb, texts[i % len(texts)]))
    return found


def hps(folder: Path, full: bool) -> Path:
    """An HPS checkpoint: ViT-H-14, by default with 4 layers of each kind in place of its 32 and 24."""
    import open_clip

    from tests.support import tiny_scorers

    config: dict[str, Any] = open_clip.get_model_config("ViT-H-14")
    if not full:
        config = {part: {**v, "layers": 4} if isinstance(v, dict) else v for part, v in config.items()}
    return tiny_scorers.hps(folder, config=config)


def image_reward(folder: Path) -> Path:
    """An ImageReward checkpoint in full size: its package knows no other. The vocabulary stands in for BERT's."""
    from tests.support import tiny_scorers

    places = ["[PAD]", *(f"[unused{i}]" for i in range(100_000, 100_099)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    text = (ROOT / "bench" / "world" / "words.txt").read_text(encoding="utf-8").lower()
    words = sorted({w for w in text.split() if w.isalpha() and len(w) > 1})
    vocabulary = [*places, *letters, *(f"##{c}" for c in letters if c.isalnum()), "湖", "的", *words]
    return tiny_scorers.image_reward(
        folder, wide=1024, deep=24, patch=16, side=224, med=BERT, head=OFFICIAL_HEAD, words=vocabulary
    )


def pick_score(folder: Path, full: bool) -> Path:
    """A PickScore folder: transformers' CLIP of ViT-H-14's widths, 4 layers unless ``full``."""
    from transformers import CLIPConfig, CLIPModel, logging

    logging.disable_progress_bar()
    deep = (32, 24) if full else (4, 4)
    vision = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": deep[0], "num_attention_heads": 16,
              "image_size": 224, "patch_size": 14, "hidden_act": "gelu"}  # fmt: skip
    text = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": deep[1], "num_attention_heads": 16,
            "hidden_act": "gelu"}  # fmt: skip
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=1024)).save_pretrained(folder)
    return folder


def clip_vocabulary(folder: Path) -> Path:
    """CLIP's vocabulary as transformers reads it: vocab.json and merges.txt."""
    from open_clip.tokenizer import SimpleTokenizer

    known = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({names.get(k, k): v for k, v in known.encoder.items()}))
    merges = sorted(known.bpe_ranks, key=known.bpe_ranks.__getitem__)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    return folder


def openai_clip(folder: Path, vision: dict[str, Any], embed: int) -> Path:
    """A CLIP in both layouts: OpenAI's state dict (``clip.pt``) and an open_clip folder. Values fit half precision."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    from tests.support import tiny_scorers

    config = {
        "embed_dim": embed, "quick_gelu": True, "vision_cfg": vision,
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 2},
    }  # fmt: skip
    folder.mkdir(parents=True)
    torch.manual_seed(3)
    model = open_clip.CLIP(**config)
    if isinstance(vision["layers"], list):  # a fresh ResNet gives all pictures the same feature
        for name, p in model.visual.named_parameters():
            p.data = tiny_scorers.drawn(name, tuple(p.shape)) + (0.5 if p.ndim == 1 else 0)
    state = {k: v.half().float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.save(state, folder / "clip.pt")
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "open_clip_model.safetensors")
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    written = {"model_cfg": config, "preprocess_cfg": {"mean": mean, "std": std, "interpolation": "bicubic"}}
    (folder / "open_clip_config.json").write_text(json.dumps(written))
    return folder


def aesthetic(folder: Path) -> Path:
    """A ViT-L/14-like CLIP of two layers and the head of the aesthetic predictor v2."""
    import torch

    from tests.support import tiny_scorers

    vision = {"image_size": 224, "layers": 2, "width": 128, "head_width": 64, "patch_size": 14}
    openai_clip(folder, vision, 768)
    torch.save(tiny_scorers.mlp(768, OFFICIAL_HEAD), folder / "head.pth")
    return folder


def inception(path: Path) -> Path:
    """Inception's weights file, random, under torch-fidelity's names."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Fresh(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> None:
            """Keep the random start."""

    torch.manual_seed(0)
    torch.save({}, path)
    network = Fresh("fresh", ["2048"], feature_extractor_weights_path=str(path))
    for p in network.parameters():
        if p.ndim > 1:  # as it starts, everything dies out on the way
            torch.nn.init.kaiming_normal_(p)
    torch.save(network.state_dict(), path)
    return path
