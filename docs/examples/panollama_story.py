"""A story told by one scroll, and a layout in two layers, by PanoLlama on the miniature's token network.

    python docs/examples/panollama_story.py [--out docs/panollama-story.png] [--backbone world-llamagen] [--seed 0]

One row of squares in which three scenes follow each other, one that tells a prompt of ``scroll-story``, whose words are
for the released network, then two rows in which each layer has its own text.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from bench.noise import Noise
from bench.prompts.sets import load_prompts
from bench.registry import find
from bench.store.pictures import levels
from bench.types import Canvas, Prompt

STORY = "; ".join((
    "a photo of the sea by day, clear sky, two boats",
    "a photo of green hills at dusk, cloudy sky, one sun, two houses",
    "a photo of snowy hills by night, clear sky, one moon, two tents",
))  # fmt: skip
LAYOUT = "a photo of the sea by night, clear sky, one moon / a photo of the sea by day, clear sky, two boats"
GAP, ENLARGED = 6, 3


def main() -> None:
    """Write the picture."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "panollama-story.png")
    options.add_argument("--backbone", default="world-llamagen")
    options.add_argument("--model", help="the backbone's folder, where it takes one")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--guidance", type=float, default=3.0)
    given = options.parse_args()
    backbone = find("backbones", given.backbone)(**({"model": given.model} if given.model else {}))
    panollama, side = find("methods", "panollama"), backbone.side * backbone.factor
    told = next(p for p in load_prompts("scroll-story@1").prompts if p.id == "caravan")
    row = Canvas(10 * side, side)
    asked = [("story", STORY, row), (told.id, told.text, row), ("layout", LAYOUT, Canvas(10 * side, 2 * side))]
    rows = []
    for name, text, canvas in asked:
        knobs = panollama.resolve({
            "scenes": ";", "layers": "/" if name == "layout" else "", "guidance": given.guidance, "remainder": "clamp",
        })  # fmt: skip
        picture = panollama.fn(backbone, Prompt(name, text), canvas, Noise(given.seed, name), **knobs)
        rows += [levels(picture.permute(1, 2, 0)), np.full((GAP, canvas.width, 3), 255, dtype=np.uint8)]
    sheet = Image.fromarray(np.concatenate(rows[:-1]))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((sheet.width * ENLARGED, sheet.height * ENLARGED), Image.Resampling.NEAREST).save(given.out)
    print(given.out)


if __name__ == "__main__":
    main()
