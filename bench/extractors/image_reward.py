"""ImageReward and PickScore as extractors of roles ``reward`` and ``pick``; importing this module imports torch.

Both official programs resize the shorter side to 224 px and read the middle square: 17 % of a 6:1 panorama.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.errors import UsageError
from bench.extractors.clip import CLIP_MEAN, CLIP_STD, centre_square
from bench.extractors.locate import Found
from bench.extractors.network import Network, fill, linear_stack, read_weights, resized

REWARD_MEAN, REWARD_STD = 0.16717362830052426, 1.0333394966054072  # of the raw output on the official training set
REWARD_TOKENS = 35
HEAD_WIDTH = 64  # of an attention head of the vision transformer: 16 heads for its 1024 channels
KEYS = (  # the official file's names of the vision transformer -> transformers' names
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"^norm\.", "post_layernorm."),
)
UNUSED = re.compile(r"blip\.(vision_proj|text_proj)\.|.*\.position_ids$")  # of BLIP's pre-training; constants


class ImageReward(Network):
    """ImageReward (Xu et al., NeurIPS 2023, arXiv:2304.05977): BLIP with a linear head, read from the official file.

    transformers' BLIP holds the weights: the vision sizes follow from the file, the text sizes from
    ``med_config.json``. Picture and text are read together, so there are no features to keep.
    """

    stock = "centre"

    def __init__(self, found: Found, device: str) -> None:
        super().__init__(found, device)
        path = found.file("ImageReward.pt")
        state = {k: v for k, v in read_weights(path).items() if not UNUSED.match(k)}
        vision = _taken(state, "blip.visual_encoder.")
        for pattern, name in KEYS:
            vision = {re.sub(pattern, name, k): v for k, v in vision.items()}
        text, head = _taken(state, "blip.text_encoder."), _taken(state, "mlp.layers.")
        if state or "embeddings.patch_embedding.weight" not in vision or "embeddings.position_embedding" not in vision:
            raise UsageError(f"{path} is not an ImageReward checkpoint: unexpected keys {sorted(state)[:3]}")
        med = json.loads(found.file("med_config.json").read_text(encoding="utf-8"))
        eyes, self.side = _vision(vision)
        reader = _text(med, eyes.config.hidden_size)
        fill(eyes, vision, path)
        fill(reader, text, path)
        mlp = linear_stack(head, int(med["hidden_size"]), path)
        self.vision, self.text, self.mlp = (_ready(m, device) for m in (eyes, reader, mlp))
        self.tokenizer = _wordpiece(found.file("vocab.txt"))
        self.mean, self.std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))

    def score(self, crops: Sequence[np.ndarray], text: str) -> np.ndarray:
        """(n,) float32 rewards of crops for one text; crops that are not square are squashed."""
        return self._score([resized(c, self.side, self.side) for c in crops], text)

    def score_stock(self, pictures: Sequence[np.ndarray], text: str) -> np.ndarray:
        """(n,) float32 rewards of whole pictures exactly as the official code sees them: :func:`centre_square`."""
        return self._score([centre_square(p, self.side) for p in pictures], text)

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Which texts have more than 35 tokens, both marks counted; the rest of such a text is not scored."""
        return [bool(e.overflowing) for e in self.tokenizer.encode_batch(list(texts))]

    def _score(self, squares: list[np.ndarray], text: str) -> np.ndarray:
        encoding = self.tokenizer.encode(text)
        ids = torch.tensor([encoding.ids], device=self.device)
        mask = torch.tensor([encoding.attention_mask], device=self.device)

        def step(part: Sequence[np.ndarray]) -> Tensor:
            pixels = (self._tensor(part) / 255 - self.mean) / self.std
            seen = self.vision(pixel_values=pixels).last_hidden_state
            read = self.text(
                input_ids=ids.expand(len(part), -1), attention_mask=mask.expand(len(part), -1),
                encoder_hidden_states=seen, is_decoder=False,
                encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=self.device),
            )  # fmt: skip
            reward: Tensor = (self.mlp(read.last_hidden_state[:, 0]) - REWARD_MEAN) / REWARD_STD
            return reward

        return self._run(squares, step, 1)[:, 0]


def _taken(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Takes the keys with a prefix out of a state dict and returns them without it."""
    return {k.removeprefix(prefix): state.pop(k) for k in list(state) if k.startswith(prefix)}


def _vision(state: dict[str, Tensor]) -> tuple[Any, int]:
    """A BLIP vision transformer of the sizes that its weights have, and the side of its input in pixels."""
    from transformers import BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel

    width, _, patch, _ = state["embeddings.patch_embedding.weight"].shape
    layers = {k.split(".")[2] for k in state if k.startswith("encoder.layers.")}
    side = patch * round((state["embeddings.position_embedding"].shape[1] - 1) ** 0.5)
    config = BlipVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=len(layers), hidden_act="gelu",
        num_attention_heads=max(1, width // HEAD_WIDTH), image_size=side, patch_size=patch, layer_norm_eps=1e-6,
    )  # fmt: skip
    return BlipVisionModel(config), side


def _text(med: dict[str, Any], encoder_width: int) -> Any:
    """BLIP's text encoder of ``med_config.json``; its config must say decoder, or it gets no cross-attention."""
    from transformers import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    named = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "max_position_embeddings", "layer_norm_eps", "hidden_act")  # fmt: skip
    sizes = {k: med[k] for k in named if k in med}
    config = BlipTextConfig(
        **sizes, encoder_hidden_size=encoder_width, is_decoder=True, attn_implementation="eager",
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BlipTextModel(config, add_pooling_layer=False)


def _wordpiece(vocabulary: Path) -> Any:
    """bert-base-uncased's tokenizer, and the two marks that BLIP adds, padded to 35 tokens."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
    tokenizer.add_special_tokens(["[DEC]", "[ENC]"])
    tokenizer.enable_truncation(REWARD_TOKENS)
    tokenizer.enable_padding(length=REWARD_TOKENS)
    return tokenizer


def _ready(model: Any, device: str) -> Any:
    return model.float().eval().requires_grad_(False).to(device)
