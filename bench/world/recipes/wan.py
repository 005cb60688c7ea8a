"""world-wan's base: a miniature of Wan2.1 that knows squares and near-still clips of squares, and nothing wider.

Kinds are drawn evenly, so that rare things are learned too. Steps alternate between single pictures and clips of 15
latent frames whose camera stands or drifts by up to two cells. Wan's own positions, and noise of its own for every
frame. The network answers with x0 on the flow path x_t = (1 - t) x0 + t eps (``prediction_type="sample"``, which
Wan's sampler, UniPC, takes as it is), weighted min(1/t^2, 8). The umT5 encoder is small and trained along; padding
behind a text is zeros, as in the pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import UMT5Config, UMT5EncoderModel

from bench.world.obedience import obedience, summary
from bench.world.recipes.bank import DATA, Bank, evenly, kept
from bench.world.recipes.tokens import make_t5_tokenizer
from bench.world.recipes.vae import to_tensor
from bench.world.recipes.wan_vae import encode
from bench.world.render import HEIGHT, render
from bench.world.scene import Scene, caption, sample_scene
from methods.backbones.wan import Wan
from methods.training.loop import muon_and_adamw

TEXT_WIDTH, TEXT_TOKENS = 96, 32
TRANSFORMER: dict[str, Any] = dict(
    num_attention_heads=4, attention_head_dim=32, in_channels=16, out_channels=16, text_dim=TEXT_WIDTH, freq_dim=256,
    ffn_dim=512, num_layers=6,
)  # fmt: skip
SCHEDULE: dict[str, Any] = dict(prediction_type="sample", use_flow_sigmas=True, flow_shift=3.0)
FRAMES, CELLS = 15, 8  # latent frames of a clip, cells a side
SQUARES, CLIPS, ROOM = 24_000, 4_000, 2  # pictures encoded; the clips' are wider by ROOM cells
WIDTH = HEIGHT + ROOM * HEIGHT // CELLS  # px
MARGIN = 6  # px between the centre of a unique thing and the nearest edge that any frame may have


class WanRecipe:
    """Transformer and umT5 encoder, trained together on cached latents of the trained autoencoder."""

    name = "world-wan"
    card = "card.json"
    data = DATA
    steps = 2000
    batch = 64  # pictures; a clip step has a fifth as many clips
    lr = 2e-3

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        self.bank, self.tokenizer = bank, make_t5_tokenizer(TEXT_TOKENS)
        self.vae = AutoencoderKLWan.from_pretrained(out / "vae").float().eval()
        self.vae.register_to_config(_name_or_path="world-wan-vae")
        self.squares = self.cached(work / "wan-squares.npy", lambda: bank.squares[:SQUARES])
        self.of_squares = evenly(bank.scenes[: len(self.squares)])
        self.scenes, seeds = near_still(min(CLIPS, len(bank.squares)), work / "wan-clips.json")
        self.clips = self.cached(
            work / "wan-clips.npy", lambda: np.stack([render(s, WIDTH, n).rgb for s, n in zip(self.scenes, seeds)])
        )
        self.of_clips = evenly(self.scenes[: len(self.clips)])
        transformer = WanTransformer3DModel(**TRANSFORMER)
        nn.init.zeros_(transformer.condition_embedder.time_proj.weight)
        nn.init.zeros_(transformer.proj_out.weight)
        text = UMT5EncoderModel(
            UMT5Config(
                vocab_size=len(self.tokenizer), d_model=TEXT_WIDTH, d_kv=32, d_ff=2 * TEXT_WIDTH, num_layers=2,
                num_heads=3, feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=0, eos_token_id=1,
            )
        )  # fmt: skip
        self.module = nn.ModuleDict({"transformer": transformer, "text": text})

    def optimisers(self) -> list[torch.optim.Optimizer]:
        blocks = self.module["transformer"].get_submodule("blocks")
        return muon_and_adamw(self.module, [blocks], self.lr)

    @torch.no_grad()
    def cached(self, path: Path, pictures: Callable[[], np.ndarray]) -> np.ndarray:
        """Normalised latents (n, 16, 8, cells), float16, of pictures that are only made where the file is missing."""
        config = self.vae.config
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))

        def latents() -> np.ndarray:
            rgb, parts = pictures(), []
            for start in range(0, len(rgb), 50):
                z = encode(self.vae, to_tensor(rgb[start : start + 50])[:, :, None]).chunk(2, dim=1)[0]
                parts.append(((z[:, :, 0] - mean) / std).half().numpy())
            return np.concatenate(parts)

        return kept(path, latents)

    def read(self, texts: list[str]) -> Tensor:
        """umT5's embeddings (n, 32, width), zeros behind each text."""
        told = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        hidden = self.module["text"](told.input_ids, told.attention_mask).last_hidden_state
        return hidden * told.attention_mask[:, :, None]

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, list[Scene], float]:
        """Latents (n, 16, frames, 8, 8), their scenes and the shift of the times for them."""
        if rng.random() < 0.5:
            picks = np.sort(rng.choice(len(self.squares), self.batch, p=self.of_squares))
            return tensor(self.squares[picks])[:, :, None], [self.bank.scenes[i] for i in picks], 2.0
        picks = np.sort(rng.choice(len(self.clips), self.batch // 5, p=self.of_clips))
        clips = []
        for pick in picks:
            cells = int(rng.integers(-ROOM, ROOM + 1)) if rng.random() < 0.6 else 0
            left = int(rng.integers(max(0, -cells), ROOM - max(0, cells) + 1))
            offsets = left + np.rint(cells * np.arange(FRAMES) / (FRAMES - 1)).astype(int)
            clips.append(np.stack([self.clips[pick][:, :, x : x + CELLS] for x in offsets], 1))
        return tensor(np.stack(clips)), [self.scenes[i] for i in picks], 5.0

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        x0, scenes, shift = self.draw(rng)
        texts = ["" if rng.random() < 0.1 else caption(s, rng, fillers=0.3) for s in scenes]
        u = torch.rand((len(x0), 1, 1, 1, 1), generator=noise)
        t = shift * u / (1 + (shift - 1) * u)
        x = (1 - t) * x0 + t * torch.randn(x0.shape, generator=noise)
        # The fused CPU kernel is three times slower than plain matrix products at these sizes.
        with sdpa_kernel(SDPBackend.MATH):
            predicted = self.module["transformer"](x, 1000 * t.flatten(), self.read(texts), return_dict=False)[0]
        return ((1 / t**2).clamp(max=8) * (predicted - x0).square()).mean()

    def parts(self) -> dict[str, Any]:
        """What :class:`methods.backbones.wan.Wan` is built from."""
        return {
            "transformer": self.module["transformer"], "vae": self.vae, "text_encoder": self.module["text"],
            "tokenizer": self.tokenizer, "scheduler": {"_class_name": "UniPCMultistepScheduler", **SCHEDULE},
        }  # fmt: skip

    def evaluate(self) -> dict[str, float]:
        """The gates of :mod:`bench.world.obedience` on single pictures."""
        return summary(obedience(Wan("world-wan", "", self.parts(), native=(FRAMES, CELLS, CELLS), batch=32)))

    def save(self, folder: Path) -> None:
        modules = [m for m in self.parts().values() if isinstance(m, nn.Module)]
        for module in modules:
            module.half()
        WanPipeline(**self.parts() | {"scheduler": UniPCMultistepScheduler(**SCHEDULE)}).save_pretrained(folder)
        for module in modules:
            module.float()


def tensor(latents: np.ndarray) -> Tensor:
    return torch.from_numpy(latents.astype(np.float32))


def near_still(n: int, kept: Path) -> tuple[list[Scene], list[int]]:
    """Scenes and render seeds of n pictures whose unique thing stays in sight of every frame of a drifting camera.

    Which seeds these are is written to ``kept``, so that only the first call has to render.
    """

    def scene(seed: int) -> Scene:
        return sample_scene(np.random.default_rng([3, seed]))

    seeds: list[int] = json.loads(kept.read_text()) if kept.exists() else []
    candidates = iter(range(max(seeds, default=-1) + 1, 2**31))
    while len(seeds) < n:
        seed = next(candidates)
        said = scene(seed)
        things = (t for t in render(said, WIDTH, seed).things if t.kind == said.unique)
        if all(WIDTH - HEIGHT + MARGIN <= t.x <= HEIGHT - MARGIN for t in things):
            seeds.append(seed)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(seeds))
    return [scene(seed) for seed in seeds[:n]], seeds[:n]
