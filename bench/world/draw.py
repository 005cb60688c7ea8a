"""Draw a ScrollWorld picture from a caption or a scene, into a file, and tell the truth about it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bench.errors import UsageError, near
from bench.reading import MOST, parse_json, shown
from bench.world.render import render
from bench.world.scene import NUMBER_WORDS, OBJECTS, WORDING, Scene, caption


def draw(
    out: Path, said: str | None, scene: str | None, width: int = 256, seed: int = 0, copies: int = 1, loop: bool = False
) -> dict[str, Any]:
    """Render to a PNG of 32 x ``width`` px.

    Args:
        out: the PNG; its folder is made where needed.
        said, scene: a caption, or the JSON of :meth:`Scene.to_dict`; exactly one of them.
        width, seed, copies, loop: as in :func:`bench.world.render.render`.

    Returns:
        the file, the canonical caption, the scene, the horizon's row and all things drawn with their centres in px.

    Raises:
        UsageError: neither or both of caption and scene, words or values this world does not know, or a canvas
            that is too small.
    """
    from PIL import Image

    if (said is None) == (scene is None):
        raise UsageError("give either a caption or a scene, not both and not neither")
    if not 0 <= seed <= MOST:
        raise UsageError(f"a seed is an integer from 0 to 2^63 - 1, got {seed}")
    try:
        wanted = read_caption(said) if said is not None else Scene.from_dict(parse_json(scene or "", Path("--scene")))
        picture = render(wanted, width, seed, copies=copies, loop=loop)
    except ValueError as error:  # what render refuses
        raise UsageError(f"cannot draw this: {error}") from error
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.rgb).save(out, format="PNG")
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error}") from error
    return {
        "file": str(out),
        "caption": caption(wanted),
        "scene": wanted.to_dict(),
        "width": width,
        "height": len(picture.rgb),
        "horizon": picture.horizon,
        "things": [{"kind": t.kind, "x": t.x, "y": t.y} for t in picture.things],
    }


def read_caption(text: str) -> Scene:
    """The scene a caption tells, in canonical wording or any the text encoder was trained on.

    Raises:
        UsageError: a style, biome, time, weather or unique thing that is not said in this world's words.
    """
    said = text.lower()
    values: dict[str, str | None] = {}
    for field, wordings in WORDING.items():
        options = [(phrase, value) for value, phrases in wordings.items() for phrase in phrases]
        there = [(len(phrase), value) for phrase, value in options if re.search(rf"\b{phrase}\b", said)]
        if not there:
            canonical = [phrases[0] for phrases in wordings.values()]
            clauses = [c.strip() for c in re.split(r",", said)]
            hint = next((h for c in clauses if (h := near(c, canonical)).startswith("did")), near("", canonical))
            raise UsageError(f"the caption names no {field} of ScrollWorld: {shown(text)}; {hint}")
        values[field] = max(there, key=lambda pair: pair[0])[1]
    numbers = {word: n for n, word in NUMBER_WORDS.items()}
    group = re.search(rf"\b({'|'.join(numbers)}) ({'|'.join(OBJECTS)})s?\b", said)
    counted = [group[2], numbers[group[1]]] if group else None
    return Scene.from_dict({**values, "counted": counted})
