"""Rates pictures with image-reward's copy of the aesthetic predictor v2 on OpenAI's clip package.

Settings: ``clip``, a file that ``clip.load`` reads, and ``head``, the official file of the head.
"""

from __future__ import annotations

from importlib import import_module

import lines
import torch

told = lines.settings()
official = import_module("ImageReward.models.AestheticScore")  # the module: the package has a class of that name
load = official.clip.load
official.clip.load = lambda name, **options: load(told["clip"], device="cpu", jit=False)
model = official.AestheticScore(download_root=None, device="cpu")
model.mlp.load_state_dict(torch.load(told["head"], map_location="cpu"))
model.eval()
lines.answer(["image-reward", "clip-anytorch", "torch"], lambda image, prompt: model.score(prompt, image))
