"""Scores pictures with the official hpsv2 package. Settings: ``weights``, and ``config`` for a smaller network."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import types
from pathlib import Path

import lines

sys.modules["turtle"] = types.SimpleNamespace(forward=None)  # hpsv2 imports it by mistake, which would need Tk
os.environ["HPS_ROOT"] = tempfile.mkdtemp()

from hpsv2 import img_score  # noqa: E402
from hpsv2.src.open_clip import factory  # noqa: E402

told = lines.settings()
if told.get("config"):
    factory._MODEL_CONFIGS["ViT-H-14"] = json.loads(Path(told["config"]).read_text())["model_cfg"]
make = img_score.create_model_and_transforms
# the start weights it would download are overwritten by the checkpoint anyway
img_score.create_model_and_transforms = lambda name, pretrained, **options: make(name, None, **options)
lines.answer(
    ["hpsv2", "torch", "torchvision"], lambda image, prompt: img_score.score(image, prompt, cp=told["weights"])[0]
)
