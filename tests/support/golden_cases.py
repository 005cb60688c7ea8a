"""The authors' numbers in goldens/: one loader and one way of replaying a case for all test files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from methods.backbones import Conditioning
from methods.backbones.stable_diffusion import StableDiffusion
from methods.shared.windows import Window, grid

GOLDENS = Path(__file__).parents[1] / "goldens"
BOUND = 1e-6  # largest absolute difference allowed; suggested_tolerance is what float64 reaches

Sampler = Callable[..., torch.Tensor]  # sampler(guided, scheduler, canvas, after_step) -> final latents


def load_network(name: str) -> Any:
    """A diffusers network of goldens/, e.g. ``weights/unet_a``."""
    import diffusers

    config = json.loads((GOLDENS / f"{name}.config.json").read_text())
    network = getattr(diffusers, config.pop("_class_name")).from_config(config)
    network.load_state_dict(load_file(GOLDENS / f"{name}.safetensors"))
    return network


def load_arrays(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The manifest's entry of a case, and its arrays."""
    entry = json.loads((GOLDENS / "manifest.json").read_text())["cases"][name]
    with np.load(GOLDENS / entry["file"]) as stored:
        return entry, {k: torch.from_numpy(stored[k]) for k in stored.files}


class Case:
    """One golden case: its entry and arrays, and a float64 backbone around the networks that made the numbers."""

    def __init__(self, name: str) -> None:
        self.entry, self.arrays = load_arrays(name)
        parts = {
            "unet": load_network(self.entry["unet"]),
            "vae": load_network(self.entry.get("vae", "weights/vae_a")),  # most cases decode nothing
            "scheduler": self.entry["scheduler"]["config"],
        }
        self.backbone = StableDiffusion("golden", "-", parts, precision="fp64")
        self.settings = self.entry["settings"]
        self.size = tuple(self.arrays["canvas"].shape[-2:])
        self.side = int(self.settings.get("window_latents") or self.settings["tile_latents"])
        self.stride = int(self.settings["stride_latents"])

    @property
    def conditioning(self) -> Conditioning:
        """The prompt of the case."""
        return Conditioning(self.arrays["text_embeds"])

    def grid(self, **changes: Any) -> list[Window]:
        """The windows of the case, as the released code places them unless changed."""
        loop = self.settings.get("circular_padding", False)
        given = {"stride": self.stride, "remainder": "zero", "loop": loop, **changes}
        return grid(*self.size, self.side, given.pop("stride"), **given)

    def guided(self, x: torch.Tensor, t: Any) -> torch.Tensor:
        """The guided network of the case."""
        return self.backbone.guided(x, t, self.conditioning, self.settings["guidance_scale"])

    def run(self, sampler: Sampler, guided: Callable[..., torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        """Replay the case; returns the canvases under the names the case stores them by."""
        found: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            scheduler = self.backbone.scheduler(self.settings["steps"])
            assert torch.equal(scheduler.timesteps, self.arrays["timesteps"])
            found["final_latent"] = sampler(
                guided or self.guided,
                scheduler,
                self.arrays["canvas"],
                lambda i, x: found.__setitem__(f"latent_after_step_{i + 1}", x),
            )
        return found

    def off(self, found: dict[str, torch.Tensor]) -> float:
        """Largest absolute difference of any canvas the case stores."""
        names = [n for n in self.arrays if n.startswith(("latent_after", "final_latent"))]
        assert "final_latent" in names
        return max(float((found[n] - self.arrays[n]).abs().max()) for n in names)

    def check(self, found: dict[str, torch.Tensor]) -> None:
        """A replay is the released code's: as many views, and all canvases within both bounds."""
        assert len(self.grid()) == self.entry["number_of_views"]
        off = self.off(found)
        assert off < BOUND
        assert off < self.entry["suggested_tolerance"]

    def final_off(self, found: dict[str, torch.Tensor]) -> float:
        """Largest absolute difference of the final latents: what the manifest states for deliberate mistakes."""
        return float((found["final_latent"] - self.arrays["final_latent"]).abs().max())

    def mistake(self, name: str) -> float:
        """How far a deliberate mistake is off, by the manifest; the name may be shortened to its beginning."""
        stated = self.entry["negative_controls_max_abs"]
        (found,) = [value for key, value in stated.items() if key.startswith(name)]
        return float(found)
