"""world-flux: a guidance-distilled rectified-flow transformer in FLUX.1-dev's layout, in two recipes.

``world-flux-teacher`` learns text to squares; ``world-flux`` starts from it and learns what its guidance input means:
the teacher's classifier-free guidance at that scale in one evaluation, which is how FLUX.1-dev was made.

* The network answers with FLUX's velocity, eps - x0, so that the released scheduler and pipeline run it unchanged.
  The loss is that of x0 (x_t - t v) weighted min(1/t^2, 8): on the velocity min(1, 8 t^2).
* The picture's grid is 4 x 4 tokens of 64 numbers. The schedule's shift is FLUX's at as many squares, and so counts
  16 tokens where FLUX counts 4096.
* CLIP's text encoder is world-sd's, frozen, as FLUX's is a frozen one; T5's is small and trained along.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pixel_unshuffle
from transformers import CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

from bench.errors import UsageError
from bench.world.obedience import obedience, summary
from bench.world.recipes.bank import DATA, Bank
from bench.world.recipes.tokens import make_t5_tokenizer
from bench.world.recipes.vae import cached_latents
from bench.world.scene import caption
from methods.backbones.flux import Flux
from methods.backbones.identity import world_folder
from methods.backbones.network import LatentNetwork
from methods.training.loop import muon_and_adamw

TEXT_WIDTH, TEXT_TOKENS = 96, 32
TRANSFORMER: dict[str, Any] = dict(
    in_channels=64, num_layers=2, num_single_layers=4, num_attention_heads=4, attention_head_dim=32,
    axes_dims_rope=(8, 12, 12), joint_attention_dim=TEXT_WIDTH, pooled_projection_dim=TEXT_WIDTH, guidance_embeds=True,
)  # fmt: skip
SCHEDULE: dict[str, Any] = dict(
    shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=1, max_image_seq_len=16
)
SIDE = 4  # tokens a side of a square
SHIFT = 2.0  # of the times trained on
GUIDANCE = (1.0, 5.0)  # scales the student learns


class TeacherRecipe:
    """Transformer and T5 encoder, trained together on cached latents of world-sd's autoencoder; 10 % of texts empty."""

    name = "world-flux-teacher"
    card = "teacher.json"
    data = DATA
    steps = 2400
    batch = 64
    lr = 2e-3

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        base = world_folder()
        self.bank = bank
        self.vae = AutoencoderKL.from_pretrained(base / "vae").float().eval()
        self.latents = cached_latents(self.vae, bank, work)
        self.shift = round(float(self.latents[:2000].astype(np.float32).mean()) / self.vae.config.scaling_factor, 4)
        self.vae.register_to_config(shift_factor=self.shift, _name_or_path="world-vae")
        self.clip_tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
        self.clip = CLIPTextModel.from_pretrained(base / "text_encoder").float().eval().requires_grad_(False)
        self.tokenizer = make_t5_tokenizer(TEXT_TOKENS)
        transformer = FluxTransformer2DModel(**TRANSFORMER)
        for block in transformer.modules():  # blocks begin as the identity, the answer as zero (Peebles & Xie 2023)
            if type(block).__name__.startswith("AdaLayerNorm"):
                nn.init.zeros_(block.linear.weight)
                nn.init.zeros_(block.linear.bias)
        nn.init.zeros_(transformer.proj_out.weight)
        text = T5EncoderModel(
            T5Config(
                vocab_size=len(self.tokenizer), d_model=TEXT_WIDTH, d_kv=32, d_ff=2 * TEXT_WIDTH, num_layers=2,
                num_heads=3, feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=0, eos_token_id=1,
            )
        )  # fmt: skip
        self.module: nn.Module = nn.ModuleDict({"transformer": transformer, "text": text})

    @property
    def transformer(self) -> FluxTransformer2DModel:
        return self.module["transformer"]  # type: ignore[index]

    @property
    def text(self) -> T5EncoderModel:
        return self.module["text"]  # type: ignore[index]

    def optimisers(self) -> list[torch.optim.Optimizer]:
        blocks = (self.transformer.transformer_blocks, self.transformer.single_transformer_blocks)
        return muon_and_adamw(self.module, blocks, self.lr)

    def read(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """T5's embeddings (n, 32, width) and CLIP's pooled vectors (n, width), as the pipeline makes them."""
        ids = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        # CLIP looks back only and pools at the first end token: padding behind the longest text changes nothing.
        short = self.clip_tokenizer(texts, padding="longest", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            pooled = self.clip(short).pooler_output
        return self.text(ids).last_hidden_state, pooled

    def velocity(
        self, x: Tensor, t: Tensor, text: Tensor, pooled: Tensor, guidance: Tensor, network: nn.Module | None = None
    ) -> Tensor:
        """The transformer's answer on packed latents (n, 16, 64) at times t in [0, 1]."""
        grid = torch.arange(SIDE, dtype=torch.float32)
        return (network or self.transformer)(
            hidden_states=x, timestep=t, guidance=guidance, pooled_projections=pooled, encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3), img_ids=torch.cartesian_prod(torch.zeros(1), grid, grid),
            return_dict=False,
        )[0].float()  # fmt: skip

    def draw(self, rng: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """Packed latents, noise, times (n, 1, 1) and captions of one batch."""
        picks = np.sort(rng.integers(0, len(self.latents), self.batch))
        texts = ["" if rng.random() < 0.1 else caption(self.bank.scenes[i], rng, fillers=0.3) for i in picks]
        x0 = torch.from_numpy(self.latents[picks].astype(np.float32)) - self.shift * self.vae.config.scaling_factor
        x0 = pixel_unshuffle(x0, 2).flatten(2).transpose(1, 2)
        u = torch.rand((self.batch, 1, 1), generator=noise)
        return x0, torch.randn(x0.shape, generator=noise), SHIFT * u / (1 + (SHIFT - 1) * u), texts

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        x0, eps, t, texts = self.draw(rng, noise)
        # The fused CPU kernel is three times slower than plain matrix products at these sizes.
        with sdpa_kernel(SDPBackend.MATH):
            text, pooled = self.read(texts)
            v = self.velocity((1 - t) * x0 + t * eps, t.flatten(), text, pooled, torch.ones(self.batch))
        return weighted(v - (eps - x0), t)

    def parts(self) -> dict[str, Any]:
        """What :class:`methods.backbones.flux.Flux` is built from."""
        return {
            "transformer": self.transformer, "vae": self.vae, "text_encoder": self.clip, "text_encoder_2": self.text,
            "tokenizer": self.clip_tokenizer, "tokenizer_2": self.tokenizer,
            "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler", **SCHEDULE},
        }  # fmt: skip

    def evaluate(self) -> dict[str, float]:
        """The gates of :mod:`bench.world.obedience` with classifier-free guidance: what the student can reach."""

        class Undistilled(Flux):
            guided = LatentNetwork.guided  # a difference of two evaluations, the guidance input being 1

        return summary(obedience(Undistilled("world-flux", "", self.parts(), window=2 * SIDE, batch=32)))

    def save(self, folder: Path) -> None:
        modules = [m for m in self.parts().values() if isinstance(m, nn.Module)]
        for module in modules:
            module.half()
        FluxPipeline(**self.parts() | {"scheduler": FlowMatchEulerDiscreteScheduler(**SCHEDULE)}).save_pretrained(
            folder
        )
        for module in modules:
            module.float()


class FluxRecipe(TeacherRecipe):
    """The teacher's transformer learns to answer g in its guidance input with u + g (c - u) of its teacher."""

    name = "world-flux"
    card = "card.json"
    data = DATA
    steps = 1600
    batch = 32
    lr = 1e-3

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        super().__init__(bank, work, out)
        taught = work / TeacherRecipe.name / "checkpoint.pt"
        if not taught.exists():
            raise UsageError(
                f"world-flux learns from its teacher, and {taught} is not there: train world-flux-teacher first"
            )
        self.module.load_state_dict(torch.load(taught, weights_only=True)["ema"])
        self.t5 = super().text.eval().requires_grad_(False)
        self.module = super().transformer
        self.teacher = deepcopy(self.module).requires_grad_(False)

    @property
    def transformer(self) -> FluxTransformer2DModel:
        return self.module

    @property
    def text(self) -> T5EncoderModel:
        return self.t5

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        x0, eps, t, texts = self.draw(rng, noise)
        x, ones = (1 - t) * x0 + t * eps, torch.ones(self.batch)
        low, high = GUIDANCE
        scale = low + (high - low) * torch.rand(self.batch, generator=noise)
        with sdpa_kernel(SDPBackend.MATH):
            with torch.no_grad():
                empty = [e.expand(self.batch, *e.shape[1:]) for e in self.read([""])]
                told = self.read(texts)
                c, u = (self.velocity(x, t.flatten(), a, b, ones, self.teacher) for a, b in (told, empty))
            v = self.velocity(x, t.flatten(), told[0], told[1], scale)
        return weighted(v - (u + scale.view(-1, 1, 1) * (c - u)), t)

    def evaluate(self) -> dict[str, float]:
        """The gates of :mod:`bench.world.obedience` through the guidance input."""
        return summary(obedience(Flux("world-flux", "", self.parts(), window=2 * SIDE, batch=32)))


def weighted(error: Tensor, t: Tensor) -> Tensor:
    """The mean square of x0's error weighted min(1/t^2, 8), from that of the velocity."""
    return ((8 * t**2).clamp(max=1) * error.square()).mean()
