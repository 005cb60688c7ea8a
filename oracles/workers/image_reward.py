"""Scores pictures with the official image-reward package. Settings: ``folder`` with its files and a vocabulary."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import lines

told = lines.settings()
folder = Path(told["folder"])
os.chdir(tempfile.mkdtemp())  # the package asks for the tokenizer "bert-base-uncased": a folder here is taken first
bert = Path("bert-base-uncased")
bert.mkdir()
shutil.copy(folder / "vocab.txt", bert / "vocab.txt")
(bert / "config.json").write_text(json.dumps({"model_type": "bert"}))
(bert / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 512}))

import ImageReward  # noqa: E402

model = ImageReward.load(str(folder / "ImageReward.pt"), device="cpu", med_config=str(folder / "med_config.json"))
lines.answer(["image-reward", "transformers", "torch"], lambda image, prompt: model.score(prompt, image))
