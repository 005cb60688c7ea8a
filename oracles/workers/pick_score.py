"""Scores pictures as PickScore's model card does: transformers' CLIP with its Pillow preprocessing.

Settings: ``folder`` of the model; ``tokenizer``, a folder with vocab.json and merges.txt.
"""

from __future__ import annotations

from pathlib import Path

import lines
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

told = lines.settings()
model = CLIPModel.from_pretrained(told["folder"]).eval()
look = CLIPImageProcessor()
files = Path(told["tokenizer"])
read = CLIPTokenizerFast(str(files / "vocab.json"), str(files / "merges.txt"), model_max_length=77)


@torch.no_grad()
def score(image: str, prompt: str) -> float:
    side = model.config.vision_config.image_size
    size = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    seen = model.get_image_features(**look(images=Image.open(image), return_tensors="pt", **size))
    said = model.get_text_features(**read(prompt, padding=True, truncation=True, max_length=77, return_tensors="pt"))
    seen, said = (x / torch.norm(x, dim=-1, keepdim=True) for x in (seen, said))
    return float(model.logit_scale.exp() * (said @ seen.T)[0, 0])


lines.answer(["transformers", "torch"], score)
