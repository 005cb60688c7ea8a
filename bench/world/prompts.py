"""The prompt set ``scrollworld@1``: how it is chosen, measured and written. ``python -m bench.world.prompts`` does it.

Scenes are picked one after another so that styles, biomes, times, weathers, numbers and their main pairs stay level;
the captions are canonical. A prompt is kept only if the colour detector reads at least 95 % of its fresh renders
exactly; ``detectors.csv`` beside the card says how well, prompt by prompt, also for those that were dropped.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bench.prompts.card import update_card
from bench.prompts.level import choose_level, hash_order
from bench.prompts.sets import read_prompts
from bench.world.colour_detector import KINDS
from bench.world.detectors import detect
from bench.world.render import HEIGHT, render
from bench.world.scene import (
    BIOMES,
    LIGHTHOUSE_BIOMES,
    OBJECT_OF_BIOME,
    STYLES,
    TIMES,
    UNIQUES,
    WEATHERS,
    Scene,
    caption,
)

FOLDER = Path(__file__).resolve().parents[2] / "prompts" / "scrollworld" / "1"
SHARES: dict[str | None, float] = {"sun": 0.25, "moon": 0.15, "lighthouse": 0.2, "balloon": 0.2, None: 0.2}
SQUARES, PANORAMAS, WIDE = 40, 20, 8 * HEIGHT
EXACT = 0.95  # least share of fresh renders read exactly, squares and panoramas each
FIRST_SEED = 2**31  # renders below are for training


def make_prompts(n: int = 300, seed: int = 0, dropped: Collection[str] = ()) -> list[dict[str, Any]]:
    """n prompt rows, level over everything a caption says, without the ids in ``dropped``.

    The choice depends on ``n`` only in where it stops, and on no random number generator's version.
    """
    pool = [s for s in _scenes() if slug(s) not in dropped]
    ordered = [pool[i] for i in hash_order([slug(s) for s in pool], seed)]
    return [row(s) for s in _level(ordered, n, SHARES)]


def row(scene: Scene) -> dict[str, Any]:
    """One line of the prompt file."""
    counts = {scene.unique: 1} if scene.unique else {}
    return {
        "id": slug(scene), "text": caption(scene), "theme": scene.biome, "style": scene.style, "time": scene.time,
        "weather": scene.weather, "unique": scene.unique,
        "counts": counts | dict([scene.counted] if scene.counted else []), "scene": scene.to_dict(),
    }  # fmt: skip


def slug(scene: Scene) -> str:
    """The prompt's id, such as ``sea-dusk-ink-sun-3-boats``; the weather is named unless it is clear."""
    parts = [scene.biome, scene.time, scene.style, *([scene.weather] if scene.weather != "clear" else [])]
    parts.append(scene.unique or "empty")
    if scene.counted:
        kind, n = scene.counted
        parts += [str(n), kind + "s" * (n > 1)]
    return "-".join(parts)


def splits(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Named selections, level like the whole: ``spread`` (24), ``suns`` (25), ``tiny`` (4), ``preferences`` (48).

    ``preferences`` are for training: each asks for one thing, and none is in another selection.
    """
    scenes = [Scene.from_dict(r["scene"]) for r in rows]
    spread: dict[str | None, float] = {"sun": 6, "moon": 5, "lighthouse": 5, "balloon": 4, None: 4}
    wanted: dict[str, tuple[int, dict[str | None, float]]] = {
        "spread": (24, spread),
        "suns": (25, {"sun": 1}),
        "tiny": (4, {"sun": 1, "moon": 1, "lighthouse": 1, None: 1}),
    }
    chosen = {name: _level(scenes, n, shares) for name, (n, shares) in wanted.items()}
    left = [s for s in scenes if not any(s in taken for taken in chosen.values())]
    chosen["preferences"] = _level(left, 48, dict.fromkeys(UNIQUES, 0.25))
    return {name: [slug(s) for s in scenes] for name, scenes in chosen.items()}


def _scenes() -> Iterable[Scene]:
    for style in STYLES:
        for biome in BIOMES:
            kind = OBJECT_OF_BIOME[biome]
            for time in TIMES:
                bodies = ("moon",) if time == "night" else ("sun",)
                on_land = ("lighthouse",) if biome in LIGHTHOUSE_BIOMES else ()
                for weather in WEATHERS:
                    for unique in (None, "balloon", *bodies, *on_land):
                        for n in range(4 if kind else 1):
                            yield Scene(style, biome, time, weather, unique, (kind, n) if kind and n else None)


def _level(pool: list[Scene], n: int, shares: dict[str | None, float]) -> list[Scene]:
    """n scenes of the pool; each pick is of the unique thing most in arrears and then of what was picked least."""
    fields = [
        [s.style, s.biome, s.time, s.weather, s.counted[1] if s.counted else 0,
         (s.style, s.time), (s.biome, s.unique), (s.unique, s.time), (s.unique, s.style), (s.unique, s.weather)]
        for s in pool
    ]  # fmt: skip
    return [pool[i] for i in choose_level(fields, n, groups=[s.unique for s in pool], shares=shares)]


def exact(scene: Scene, width: int, seeds: Iterable[int]) -> dict[str, float]:
    """Share of fresh renders whose unique things (none but the asked), counted objects, and both are read exactly."""
    right = []
    for seed in seeds:
        picture = render(scene, width, seed)
        seen = [d.kind for d in detect(picture.rgb, scene)]
        wrong = {k for k in KINDS if seen.count(k) != picture.count(k)}
        right.append((not wrong & set(UNIQUES), not wrong - set(UNIQUES), not wrong))
    unique, counted, both = np.mean(right, axis=0).tolist()
    return {"unique": unique, "counted": counted, "both": both}


def measure(prompt: dict[str, Any], position: int) -> dict[str, Any]:
    """The prompt's line of ``detectors.csv``; ``position`` gives every prompt seeds of its own."""
    scene = Scene.from_dict(prompt["scene"])
    seeds = range(FIRST_SEED + position * 100, FIRST_SEED + position * 100 + SQUARES + PANORAMAS)
    square = exact(scene, HEIGHT, seeds[:SQUARES])
    wide = exact(scene, WIDE, seeds[SQUARES:])
    return {
        "id": prompt["id"],
        **{f"square_{k}": round(v, 4) for k, v in square.items()},
        **{f"panorama_{k}": round(v, 4) for k, v in wide.items()},
        "kept": int(min(square["both"], wide["both"]) >= EXACT),
    }


def write(folder: Path = FOLDER, n: int = 300) -> list[dict[str, Any]]:
    """Choose, measure, drop and replace until every prompt passes; then write the three files. Returns the table."""
    measured: dict[str, dict[str, Any]] = {}
    while True:
        dropped = [i for i, m in measured.items() if not m["kept"]]
        rows = make_prompts(n, dropped=dropped)
        new = [r for r in rows if r["id"] not in measured]
        if not new:
            break
        for prompt in new:
            measured[prompt["id"]] = measure(prompt, len(measured))
    table = [measured[r["id"]] for r in rows] + [measured[i] for i in dropped]
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    (folder / "prompts.jsonl").write_text(lines, encoding="utf-8")
    with (folder / "detectors.csv").open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    write_card(folder)
    return table


def read_table(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The lines of ``detectors.csv``, as :func:`measure` made them."""
    with (folder / "detectors.csv").open(encoding="utf-8") as f:
        return [{k: v if k == "id" else float(v) for k, v in m.items()} for m in csv.DictReader(f)]


def read_dropped(folder: Path = FOLDER) -> list[str]:
    """Ids that were measured and dropped."""
    return [m["id"] for m in read_table(folder) if not m["kept"]]


def write_card(folder: Path = FOLDER) -> None:
    """Write ``card.toml`` from the prompts and the table in the folder."""
    prompts = read_prompts(folder / "prompts.jsonl")
    text = _card([dict(p.attributes) for p in prompts], read_table(folder))
    (folder / "card.toml").write_text(text, encoding="utf-8")
    update_card(folder)


def _card(rows: list[dict[str, Any]], table: list[dict[str, Any]]) -> str:
    kept = [m for m in table if m["kept"]]
    out = [
        'title = "ScrollWorld captions"', 'licence = "Apache-2.0"', 'language = "en"', 'renderer = "1"',
        'made = """Chosen level over styles, biomes, times, weathers, unique things and numbers by',
        'python -m bench.world.prompts; the captions are the canonical wording of bench/world/scene.py."""',
        "", "[lint]", "templated = true  # captions are the closed language of this world, on purpose",
    ]  # fmt: skip
    out += [
        "", "[detector]", "# Share of fresh renders read exactly; the table of all prompts is detectors.csv.",
        f"renders = {{ squares = {SQUARES}, panoramas = {PANORAMAS}, width = {WIDE}, first_seed = {FIRST_SEED} }}",
        f"required = {EXACT}", f"dropped = {len(table) - len(kept)}",
    ]  # fmt: skip
    for key in list(table[0])[1:-1]:
        shares = [float(m[key]) for m in kept]
        out.append(f"{key} = {{ mean = {np.mean(shares):.4f}, least = {min(shares):.4f} }}")
    out += ["", "[splits]"]
    for name, ids in splits(rows).items():
        out += [f"{name} = [", *(f'  "{i}",' for i in ids), "]"]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    write()
