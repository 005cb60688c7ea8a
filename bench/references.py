"""Reference sets: what FID and KID measure a distance to, as named and versioned objects.

    world    ScrollWorld pictures of a prompt set's scenes: width, count, prompts, seed, loop
    folder   real pictures on disk: path
    native   the suite's backbone's own squares (bench.natives), as far as they are made: width

A set's id is the digest of what decides its pixels: for ``world`` the specification and the renderer's version, for
the others the ids of the decoded pictures. Its features are kept like those of any other picture; a card with its
picture ids is written to ``references/<id>.json`` in the store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import views
from bench.commit import write_file
from bench.errors import UsageError, near
from bench.extractors import Extractor
from bench.features import Features
from bench.ids import digest, image_id
from bench.pictures import read_picture
from bench.prompts import load_prompts
from bench.types import Canvas, Prompt

KINDS = {"world": ("width", "count", "prompts", "seed", "loop"), "folder": ("path",)}
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Item:
    """One picture of a set: its id, its canvas, the key of its random views, and how to get its pixels."""

    image_id: str
    canvas: Canvas
    key: str
    pixels: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Reference:
    """A resolved reference set. ``spec`` is what was asked for, defaults filled in."""

    name: str
    id: str
    spec: Mapping[str, Any]
    items: tuple[Item, ...]

    def features(self, extractor: Extractor, view: str, cache: Features) -> np.ndarray:
        """(m, d) float32, the crops of all pictures; ``ring`` becomes ``windows`` on pictures that do not loop."""
        return np.concatenate([self._one(item, turn, extractor, view, cache) for turn, item in enumerate(self.items)])

    def _one(self, item: Item, turn: int, extractor: Extractor, view: str, cache: Features) -> np.ndarray:
        name, side = views.parse(view)
        if name == "ring" and not item.canvas.loop:
            view = f"windows:{side}" if side else "windows"
        drawn_by = views.drawn_by(view, item.key, turn)

        def compute() -> np.ndarray:
            return extractor.embed(views.crops(item.pixels(), view, item.canvas, drawn_by))

        return cache.get((item.image_id, views.key(view, item.canvas, drawn_by)), compute)


def load_reference(name: str, spec: Mapping[str, Any], store: Path) -> Reference:
    """Resolve a suite's reference set of kind ``world`` or ``folder``.

    Args:
        name: what the suite calls it.
        spec: ``kind`` and the kind's fields; see the module's text.
        store: the store's root, for the set's card.

    Raises:
        UsageError: an unknown kind or field, prompts without a ScrollWorld scene, an empty or unreadable folder.
    """
    given = {k: v for k, v in spec.items() if v is not None}
    kind = given.pop("kind", None)
    if kind not in KINDS:
        raise UsageError(f"reference {name!r}: unknown kind {kind!r}; {near(str(kind), KINDS)}")
    for field in given:
        if field not in KINDS[kind]:
            raise UsageError(f"reference {name!r}: kind {kind!r} has no field {field!r}; {near(field, KINDS[kind])}")
    return (_world if kind == "world" else _folder)(name, given, store)


def _world(name: str, given: Mapping[str, Any], store: Path) -> Reference:
    from bench.world.render import HEIGHT, VERSION

    defaults = {"width": 8 * HEIGHT, "count": 200, "prompts": "scrollworld", "seed": 1000, "loop": False}
    spec = {"kind": "world", **defaults, **given}
    chosen = load_prompts(spec["prompts"])
    for p in chosen.prompts:
        if "scene" not in p.attributes:
            raise UsageError(f"reference {name!r}: prompt {p.id!r} of {spec['prompts']} has no ScrollWorld scene")
    count, width = spec["count"], spec["width"]
    if count < 1 or width < HEIGHT:
        raise UsageError(f"reference {name!r}: needs count >= 1 and width >= {HEIGHT}, got {count} and {width}")
    identity = digest(["reference", {k: v for k, v in spec.items() if k != "prompts"}, chosen.digest, VERSION])
    canvas = Canvas(width, HEIGHT, spec["loop"])
    draws = [(chosen.prompts[i % len(chosen.prompts)], spec["seed"] + i) for i in range(count)]
    card = store / "references" / f"{identity}.json"
    ids = _known(card, len(draws)) or [image_id(_render(p, canvas, seed)) for p, seed in draws]
    items = tuple(
        Item(known, canvas, f"{p.id}/{seed}", partial(_render, p, canvas, seed))
        for known, (p, seed) in zip(ids, draws, strict=True)
    )
    return _kept(Reference(name, identity, spec, items), card)


def _render(prompt: Prompt, canvas: Canvas, seed: int) -> np.ndarray:
    from bench.world.render import render
    from bench.world.scene import Scene

    return render(Scene.from_dict(prompt.attributes["scene"]), canvas.width, seed, loop=canvas.loop).rgb


def _folder(name: str, given: Mapping[str, Any], store: Path) -> Reference:
    root = Path(given.get("path", "")).expanduser()
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES) if given.get("path") else []
    if not paths:
        raise UsageError(f"reference {name!r}: no pictures ({', '.join(SUFFIXES)}) under path {str(root)!r}")
    items = []
    for path in paths:
        rgb = read_picture(path)
        canvas = Canvas(rgb.shape[1], rgb.shape[0])
        items.append(Item(image_id(rgb), canvas, path.relative_to(root).as_posix(), partial(read_picture, path)))
    return of_pictures(name, {"kind": "folder", "path": str(root)}, items, store)


def of_pictures(name: str, spec: Mapping[str, Any], items: Sequence[Item], store: Path) -> Reference:
    """The set of given pictures, known by their ids."""
    identity = digest(["reference", spec["kind"], sorted(i.image_id for i in items)])
    return _kept(Reference(name, identity, spec, tuple(items)), store / "references" / f"{identity}.json")


def _known(card: Path, count: int) -> list[str] | None:
    """Picture ids of an earlier resolution, which saves drawing them again; None if there is no sound card."""
    try:
        ids = json.loads(card.read_text(encoding="utf-8"))["image_ids"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return ids if isinstance(ids, list) and len(ids) == count else None


def _kept(reference: Reference, card: Path) -> Reference:
    if not card.exists() or _known(card, len(reference.items)) is None:
        said = {"id": reference.id, **reference.spec, "image_ids": [i.image_id for i in reference.items]}
        write_file(card, (json.dumps(said, indent=1) + "\n").encode())
    return reference
