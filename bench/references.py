"""Reference sets: what FID and KID measure a distance to, as named and versioned objects.

    world    ScrollWorld pictures of a prompt set's scenes: width, count, prompts, seed, loop
    folder   real pictures on disk: path
    native   the suite's backbone's own squares (bench.natives), as far as they are made: width

A set's id is the digest of what decides its pixels: for ``world`` the specification and the renderer's source, for
the others the ids of the decoded pictures, whose names and order do not count. A view that draws its places goes by
those, so what it draws of which picture is added to the id (:meth:`Reference.id_through`). Features are kept like
those of any other picture. A card with the set's picture ids and a digest lies in the store, ``references/<id>.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import views
from bench.commit import write_file
from bench.errors import StoreError, UsageError, near
from bench.extractors import Extractor
from bench.features import Features
from bench.ids import digest, image_id
from bench.pictures import SUFFIXES, picture_files, read_picture
from bench.prompts import load_prompts
from bench.reading import refuse
from bench.source import source_digest
from bench.types import Canvas, Prompt

KINDS = {"world": ("width", "count", "prompts", "seed", "loop"), "folder": ("path",)}


@dataclass(frozen=True)
class Item:
    """One picture of a set.

    Attributes:
        image_id, canvas: which picture, and its size.
        key: what the view ``random`` draws its place from: a file's path, or a prompt's id and seed.
        read: how to get its pixels.
        turn: its place in the set, from 0, which the view ``random-2023`` goes by.
    """

    image_id: str
    canvas: Canvas
    key: str
    read: Callable[[], np.ndarray]
    turn: int = 0

    def pixels(self) -> np.ndarray:
        """uint8 (h, w, 3). Raises ``StoreError`` where they are not those of ``image_id``."""
        rgb = self.read()
        if (now := image_id(rgb)) != self.image_id:
            raise StoreError(
                f"picture {self.key} of a reference set is {now} and was {self.image_id} when the set was read. If its "
                "file was replaced meanwhile, run the command again; else delete the set's card in the store's "
                "`references` folder first"
            )
        return rgb

    def drawn_by(self, view: str) -> str:
        """What the place of a drawn view depends on."""
        return views.drawn_by(view, self.key, self.turn)


@dataclass(frozen=True)
class Reference:
    """A resolved reference set. ``spec`` is what was asked for, defaults filled in."""

    name: str
    id: str
    spec: Mapping[str, Any]
    items: tuple[Item, ...]

    def id_through(self, view: str) -> str:
        """What decides the set's features under a view: its id and, if the view draws, ``#`` and what it draws."""
        if views.parse(view)[0] not in views.DRAWN:
            return self.id
        boxes = ((i.image_id, views.boxes(view, i.canvas, i.drawn_by(view))) for i in self.items)
        return f"{self.id}#{digest(sorted([known, *([b.x, b.y, b.w, b.h] for b in cut)] for known, cut in boxes))}"

    def features(self, extractor: Extractor, view: str, cache: Features) -> np.ndarray:
        """(m, d) float32, the crops of all pictures; ``ring`` becomes ``windows`` on pictures that do not loop."""
        return np.concatenate([self._one(item, extractor, view, cache) for item in self.items])

    def _one(self, item: Item, extractor: Extractor, view: str, cache: Features) -> np.ndarray:
        name, side = views.parse(view)
        if name == "ring" and not item.canvas.loop:
            view = f"windows:{side}" if side else "windows"
        drawn_by = item.drawn_by(view)

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
    from bench.world.render import HEIGHT, render
    from bench.world.scene import Scene

    defaults = {"width": 8 * HEIGHT, "count": 200, "prompts": "scrollworld", "seed": 1000, "loop": False}
    spec = {"kind": "world", **defaults, **given}
    chosen = load_prompts(spec["prompts"])
    for p in chosen.prompts:
        if "scene" not in p.attributes:
            raise UsageError(f"reference {name!r}: prompt {p.id!r} of {spec['prompts']} has no ScrollWorld scene")
    count, width = spec["count"], spec["width"]
    if count < 1 or width < HEIGHT:
        raise UsageError(f"reference {name!r}: needs count >= 1 and width >= {HEIGHT}, got {count} and {width}")
    drawn_by = source_digest(render, Scene)
    identity = digest(["reference", {k: v for k, v in spec.items() if k != "prompts"}, chosen.digest, drawn_by])
    canvas = Canvas(width, HEIGHT, spec["loop"])
    draws = [(chosen.prompts[i % len(chosen.prompts)], spec["seed"] + i) for i in range(count)]
    known = _card_ids(_card(store, identity), identity)
    if known is None or len(known) != count:
        known = [image_id(_render(p, canvas, seed)) for p, seed in draws]
    items = tuple(
        Item(drawn, canvas, f"{p.id}/{seed}", partial(_render, p, canvas, seed), turn)
        for turn, (drawn, (p, seed)) in enumerate(zip(known, draws, strict=True))
    )
    return _kept(Reference(name, identity, spec, items), store)


def _render(prompt: Prompt, canvas: Canvas, seed: int) -> np.ndarray:
    from bench.world.render import render
    from bench.world.scene import Scene

    return render(Scene.from_dict(prompt.attributes["scene"]), canvas.width, seed, loop=canvas.loop).rgb


def _folder(name: str, given: Mapping[str, Any], store: Path) -> Reference:
    root = Path(given.get("path", "")).expanduser()
    paths = picture_files(root) if given.get("path") and root.is_dir() else []
    if not paths:
        raise UsageError(f"reference {name!r}: no pictures ({', '.join(SUFFIXES)}) under path {str(root)!r}")
    items, problems = [], []
    for path in paths:
        try:
            rgb = read_picture(path)
        except UsageError as error:
            problems.append(str(error))
            continue
        canvas = Canvas(rgb.shape[1], rgb.shape[0])
        items.append(Item(image_id(rgb), canvas, path.relative_to(root).as_posix(), partial(read_picture, path)))
    refuse(problems, f"reference {name!r}:")
    return of_pictures(name, {"kind": "folder", "path": str(root)}, items, store)


def of_pictures(name: str, spec: Mapping[str, Any], items: Iterable[Item], store: Path) -> Reference:
    """The set of given pictures, known by their ids.

    Their turns are their places in ``items``. The set itself is in the order of ids, so that numbers which go by the
    order of rows (subsets of KID) are those of the set and not of the file system.
    """
    turned = sorted((replace(item, turn=t) for t, item in enumerate(items)), key=lambda i: (i.image_id, i.turn))
    identity = digest(["reference", spec["kind"], [i.image_id for i in turned]])
    return _kept(Reference(name, identity, spec, tuple(turned)), store)


def _card(store: Path, identity: str) -> Path:
    return store / "references" / f"{identity}.json"


def _card_ids(card: Path, identity: str) -> list[str] | None:
    """Picture ids of an earlier resolution, which saves drawing them again; None if there is no card to be believed.

    A card is believed if it names the set and its digest fits all that it says.
    """
    try:
        told = json.loads(card.read_text(encoding="utf-8"))
        seal = told.pop("digest")
        sound = told["id"] == identity and seal == digest(told)
        return list(told["image_ids"]) if sound else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _kept(reference: Reference, store: Path) -> Reference:
    card, ids = _card(store, reference.id), [i.image_id for i in reference.items]
    if _card_ids(card, reference.id) != ids:
        told = {"id": reference.id, **reference.spec, "image_ids": ids}
        write_file(card, (json.dumps({**told, "digest": digest(told)}, indent=1) + "\n").encode())
    return reference
