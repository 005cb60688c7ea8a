"""PanoLlama with the unique thing of a ScrollWorld prompt asked for in one block alone, all others without it.

    scrollbench run --suite miniature-panollama-sweep --method docs/examples/panollama_once.py@panollama-once

A plug-in that changes the text and leaves the rest to a method that is there.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from bench import Canvas, Noise, Prompt, method
from bench.registry import find
from methods.panollama import layout

UNIQUE = re.compile(r", one [\w ]+(?=,|$)")


@method("panollama-once", family="tokens")
def once(
    backbone: Any, prompt: Prompt, canvas: Canvas, noise: Noise, *, guidance: float = 3.0, columns: int = 6
) -> Any:
    """PanoLlama whose middle block is written under the whole prompt, the others under it without the unique thing."""
    panollama = find("methods", "panollama")
    knobs = panollama.resolve({"guidance": guidance, "columns": columns, "remainder": "clamp", "scenes": ";"})
    blocks = len(layout(backbone, canvas, None, columns, "clamp", True)[1])
    texts = [UNIQUE.sub("", prompt.text)] * blocks
    texts[blocks // 2] = prompt.text
    return panollama.fn(backbone, replace(prompt, text="; ".join(texts)), canvas, noise, **knobs)
