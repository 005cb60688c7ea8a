"""world-llamagen: an autoregressive transformer in LlamaGen's layout, text to the 64 tokens of a square.

Trained as LlamaGen is (arXiv:2406.06525, section 3.2): the next token in raster order by cross-entropy, 10 % of the
texts replaced by the fixed empty prompt under their own mask. What the walk does slot by slot at sampling time is one
pass here (:meth:`LlamaGenRecipe.logits`). Slots that are padding for the whole batch are left out, which changes no
number: nobody looks at padding, and text has no positions.

The text encoder begins as world-flux's T5, where LlamaGen takes a frozen FLAN-T5, and is trained along.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import T5EncoderModel, T5TokenizerFast

from bench.world.obedience import obedience, summary
from bench.world.recipes.bank import DATA, Bank, evenly, kept
from bench.world.recipes.llamagen_vq import CONFIG as VQ_CONFIG
from bench.world.recipes.llamagen_vq import blank_vq, encode, write
from bench.world.recipes.vae import to_tensor
from bench.world.scene import caption
from methods.backbones.identity import world_folder
from methods.backbones.llamagen.backbone import LlamaGen
from methods.backbones.llamagen.gpt import GPT, GPTConfig, rotary_table
from methods.backbones.llamagen.text import clean
from methods.training.loop import muon_and_adamw

SIDE = 8  # tokens a side of a square
CONFIG: dict[str, Any] = dict(
    dim=160, n_layer=6, n_head=5, vocab_size=VQ_CONFIG["codebook_size"], block_size=SIDE * SIDE, cls_token_num=32,
    caption_dim=96, multiple_of=32,
)  # fmt: skip
DROPPED = 0.1


class LlamaGenRecipe:
    """Transformer and T5 encoder, trained together on cached tokens of the trained tokenizer."""

    name = "world-llamagen"
    card = "card.json"
    data = DATA
    steps = 2000
    batch = 48
    lr = 2e-3

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        self.bank = bank
        self.vq = blank_vq()
        self.vq.load_state_dict({k: v.float() for k, v in load_file(out / "vq" / "model.safetensors").items()})
        self.tokens = self.cached(work / "llamagen-tokens.npy")
        self.chances = evenly(bank.scenes)
        flux = world_folder("world-flux")
        self.tokenizer = T5TokenizerFast.from_pretrained(flux / "tokenizer_2")
        text = T5EncoderModel.from_pretrained(flux / "text_encoder_2").float()
        self.module = nn.ModuleDict({"gpt": blank_gpt(), "text": text})

    def optimisers(self) -> list[torch.optim.Optimizer]:
        return muon_and_adamw(self.module, [self.module["gpt"].get_submodule("layers")], self.lr)

    @torch.no_grad()
    def cached(self, path: Path) -> np.ndarray:
        """Tokens (n, 64), uint16, of the bank's squares; made where the file is missing."""
        squares = self.bank.squares
        made = (
            encode(self.vq, to_tensor(squares[i : i + 100]))[1].flatten(1).numpy().astype(np.uint16)
            for i in range(0, len(squares), 100)
        )
        return kept(path, lambda: np.concatenate(list(made)))

    def read(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """T5's features (n, slots, width) and what is text (n, slots), moved to the right end of the longest text."""
        told = self.tokenizer([clean(t) for t in texts], padding="longest", truncation=True, return_tensors="pt")
        mask = told.attention_mask
        features = self.module["text"](told.input_ids, mask).last_hidden_state
        slots = mask.shape[1]
        moved = (torch.arange(slots) + mask.sum(1, keepdim=True)) % slots  # padding first, then the text
        shown = mask.flip(1)
        return features.gather(1, moved[..., None].expand_as(features)) * shown[..., None], shown.bool()

    def logits(self, features: Tensor, shown: Tensor, tokens: Tensor) -> Tensor:
        """Logits (n, 64, codes) of every token of n squares, given the text and the tokens (n, 64) before it."""
        gpt: Any = self.module["gpt"]
        x = torch.cat([gpt.cls_embedding(features), gpt.tok_embeddings(tokens[:, :-1])], 1)
        text, end = features.shape[1], x.shape[1]
        table = rotary_table(gpt.config, (SIDE, SIDE))[gpt.config.cls_token_num - text :][:end]
        slots = torch.arange(end)
        seen = F.pad(shown, (0, end - text), value=True)[:, None, None] & (slots < slots[:, None])
        mask = seen | torch.eye(end, dtype=torch.bool)
        # The fused CPU kernel is three times slower than plain matrix products at these sizes.
        with sdpa_kernel(SDPBackend.MATH):
            logits: Tensor = gpt(x, table, slots, mask, room(gpt.config, len(x), end))
        return logits[:, text - 1 :]

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        picks = np.sort(rng.choice(len(self.tokens), self.batch, p=self.chances))
        tokens = torch.from_numpy(self.tokens[picks].astype(np.int64))
        features, shown = self.read([caption(self.bank.scenes[i], rng, fillers=0.3) for i in picks])
        empty: Tensor = self.module["gpt"].get_submodule("cls_embedding").get_buffer("uncond_embedding")
        dropped = torch.rand((self.batch, 1, 1), generator=noise) < DROPPED
        features = torch.where(dropped, empty[-features.shape[1] :], features)
        return F.cross_entropy(self.logits(features, shown, tokens).flatten(0, 1), tokens.flatten())

    def parts(self) -> dict[str, Any]:
        """What :class:`methods.backbones.llamagen.backbone.LlamaGen` is built from."""
        return {"gpt": self.module["gpt"], "vq": self.vq, "t5": self.module["text"], "tokenizer": self.tokenizer}

    def evaluate(self) -> dict[str, float]:
        """The gates of :mod:`bench.world.obedience`."""
        return summary(obedience(LlamaGen("world-llamagen", "", self.parts())))

    def save(self, folder: Path) -> None:
        write(self.module["gpt"], "LlamaGenGPT", CONFIG, folder / "gpt")
        text: Any = self.module["text"]
        text.half().save_pretrained(folder / "t5")
        text.float()
        self.tokenizer.save_pretrained(folder / "t5")


def blank_gpt() -> GPT:
    """The transformer as LlamaGen's begins: small weights, no opinion on the first token, a random empty prompt."""
    gpt = GPT(GPTConfig(**CONFIG))
    for module in gpt.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    nn.init.zeros_(gpt.output.weight)
    nn.init.normal_(gpt.cls_embedding.uncond_embedding, std=CONFIG["caption_dim"] ** -0.5)
    return gpt


def room(config: GPTConfig, rows: int, slots: int) -> Any:
    """A cache for one pass with gradients: a tensor of its own for every layer, as each is written in place."""
    shape = rows, config.n_head, slots, config.head_dim
    return SimpleNamespace(
        keys=[torch.zeros(shape) for _ in range(config.n_layer)],
        values=[torch.zeros(shape) for _ in range(config.n_layer)],
    )
