"""Training recipes of the miniature's networks, by name. Looking one up imports torch.

Order matters for a full retraining: ``world-vae`` before ``world-sd``, which works on its latents, and
world-sd before ``world-control``, which steers it;
then ``world-flux-teacher``, which takes its decoder and a text encoder from world-sd, before ``world-flux``;
``world-wan-vae`` before ``world-wan``; and ``world-llamagen-vq`` before ``world-llamagen``, which begins with a text
encoder from world-flux.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.lazy import rooms

if TYPE_CHECKING:
    from bench.world.recipes import bank as bank

__getattr__ = rooms(__name__)

# name -> (module:Class, folder of weights)
RECIPES = {
    "world-vae": ("bench.world.recipes.vae:VaeRecipe", "world-sd"),
    "world-sd": ("bench.world.recipes.diffusion:DiffusionRecipe", "world-sd"),
    "world-flux-teacher": ("bench.world.recipes.flux:TeacherRecipe", "world-flux"),
    "world-flux": ("bench.world.recipes.flux:FluxRecipe", "world-flux"),
    "world-wan-vae": ("bench.world.recipes.wan_vae:WanVaeRecipe", "world-wan"),
    "world-wan": ("bench.world.recipes.wan:WanRecipe", "world-wan"),
    "world-llamagen-vq": ("bench.world.recipes.llamagen_vq:VqRecipe", "world-llamagen"),
    "world-llamagen": ("bench.world.recipes.llamagen:LlamaGenRecipe", "world-llamagen"),
    "world-control": ("bench.world.recipes.control:ControlRecipe", "world-control"),
    "world-upscaler": ("bench.world.recipes.upscaler:UpscalerRecipe", "world-upscaler"),
    "world-oracle": ("bench.world.recipes.oracle:OracleRecipe", "world-oracle"),
    "world-cnn": ("bench.world.recipes.metric_nets:CnnRecipe", "world-cnn"),
    "world-lpips": ("bench.world.recipes.metric_nets:LpipsRecipe", "world-lpips"),
    "world-vit": ("bench.world.recipes.metric_nets:VitRecipe", "world-vit"),
    "world-clip": ("bench.world.recipes.metric_nets:ClipRecipe", "world-clip"),
}
