"""Every reader of what people write, against damaged inputs: nothing but the project's own errors may come out.

``python tests/fuzz.py --n 2000`` runs all readers, ``--reader NAME`` one of them; test_fuzz.py runs fewer cases. A case
is made again from the reader's name and its number alone: ``--reader suites --case 17`` lets its error through.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_inputs import (
    BANNED,
    CARD,
    CLAIMS,
    FULL,
    INDEX,
    MANIFEST,
    MARGINS,
    PROTOCOL,
    ROWS,
    SCENE,
    SUITE,
    WEIGHTS,
)  # fmt: skip
from mutate import damaged_bytes, damaged_text, damaged_toml, damaged_value
from PIL import Image
from small import PLUGINS

from bench.errors import ScrollBenchError


def jsonl(rows: list[dict[str, Any]]) -> str:
    """Rows as a prompt file."""
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


@dataclass
class Bench:
    """A folder with sound inputs, made once; a case damages a copy of one of them."""

    folder: Path
    turn: int = 0
    kept: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "plugins.py").write_text(PLUGINS)
        (self.folder / "prompts.jsonl").write_text(jsonl(ROWS))
        (self.folder / "sound.toml").write_text(SUITE)
        (self.folder / "set").mkdir()
        for name, side in (("a", 64), ("b", 64), ("c", 128)):
            Image.fromarray(np.full((32, side, 3), side, np.uint8)).save(self.folder / f"{name}.png")

    def file(self, name: str, text: str, rng: random.Random) -> Path:
        """A damaged copy of a text, under a name that no case before had."""
        self.turn += 1
        stem, dot, ending = name.rpartition(".")
        path = self.folder / f"{stem}{self.turn}{dot}{ending}"
        path.write_bytes(damaged_toml(text, rng) if ending == "toml" else damaged_bytes(text.encode(), rng))
        return path

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What is the same for all cases."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def suite(self) -> Any:
        """The undamaged suite."""
        from bench.suite import load_suite

        return self.once("suite", lambda: load_suite(self.folder / "sound.toml"))


def resolve(suite: Any) -> None:
    """All that a suite is asked before anything is made."""
    from bench.natives import drawn
    from bench.plan import make_plan
    from bench.store import Store

    _ = suite.digest, suite.metrics, suite.unavailable
    drawn(suite)
    if suite.tier == "miniature":
        make_plan(suite, Store(suite.file.parent / "no-store"))


def suites(bench: Bench, rng: random.Random) -> None:
    from bench.suite import load_suite

    tier = rng.choice((None, None, "miniature"))
    resolve(load_suite(bench.file("suite.toml", rng.choice((SUITE, SUITE, FULL)), rng), {"tier": tier}))


def prompts(bench: Bench, rng: random.Random) -> None:
    from bench.prompts import read_prompts

    read_prompts(bench.file("prompts.jsonl", jsonl(ROWS), rng))


def values_of_prompts(bench: Bench, rng: random.Random) -> None:
    """A prompt file that is sound JSON, of values that are not, through to a plan."""
    from bench.suite import load_suite

    path = bench.folder / "prompts.jsonl"
    rows = damaged_value(ROWS, rng)
    lines = [json.dumps(r, default=repr) for r in rows] if isinstance(rows, list) else [json.dumps(rows, default=repr)]
    path.write_text("\n".join(lines) + "\n")
    try:
        resolve(load_suite(bench.folder / "sound.toml"))
    finally:
        path.write_text(jsonl(ROWS))


def lint(bench: Bench, rng: random.Random) -> None:
    from bench.prompt_card import update_card
    from bench.prompt_lint import lint as examine
    from bench.prompts import load_prompts

    folder = bench.folder / "set"
    roll = rng.random()
    rows = damaged_value(ROWS, rng) if roll < 0.4 else ROWS
    rows = rows if isinstance(rows, list) else [rows]
    card = damaged_toml(CARD, rng) if roll > 0.3 else CARD.encode()
    (folder / "card.toml").write_bytes(card)
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps(r, default=repr) for r in rows) + "\n")
    root = bench.folder / "root"
    root.mkdir(exist_ok=True)
    (root / "banned.toml").write_bytes(damaged_toml(BANNED, rng) if roll > 0.8 else BANNED.encode())
    chosen = load_prompts(str(folder))
    examine(chosen, root=root)
    update_card(folder)


def lists(bench: Bench, rng: random.Random) -> None:
    """``prompts adopt``."""
    from bench.prompt_adopt import adopt

    texts = [r["text"] for r in ROWS]
    table = "key,caption,style,unique\n" + "".join(f'k{i},"{t}",ink,\n' for i, t in enumerate(texts))
    given = {
        "a.txt": "\n".join(texts) + "\n", "a.csv": table, "a.tsv": table.replace(",", "\t"), "a.jsonl": jsonl(ROWS),
        "a.json": json.dumps(rng.choice((texts, ROWS, {str(i): t for i, t in enumerate(texts)}))),
    }  # fmt: skip
    name = rng.choice(list(given))
    fields = rng.choice(({}, {"id": "key"}, {"text": "caption"})) if name in ("a.csv", "a.tsv") else {}
    adopt(bench.file(name, given[name], rng), "mine", str(bench.turn), root=bench.folder / "sets", fields=fields)


def manifests(bench: Bench, rng: random.Random) -> None:
    from bench.adopt import read_manifest

    read_manifest(bench.file("manifest.csv", MANIFEST, rng), bench.folder, bench.suite())


def selections(bench: Bench, rng: random.Random) -> None:
    from bench.prompts import load_prompts

    card = bench.folder / "set" / "card.toml"
    (bench.folder / "set" / "prompts.jsonl").write_text(jsonl(ROWS))
    card.write_bytes(damaged_toml(CARD, rng) if rng.random() < 0.3 else CARD.encode())
    refs = ("scrollworld@1:theme=sea,style=ink:5", "scrollworld:spread", "pano-1k@1:100:24", f"{bench.folder}/set:few",
            "./mine.jsonl:theme=river", "~/sets/mine:unique=none")  # fmt: skip
    load_prompts(damaged_text(rng.choice(refs), rng))


def options(bench: Bench, rng: random.Random) -> None:
    """What a command says of a suite, and of which."""
    from bench.console import _shard
    from bench.suite import load_suite

    file = str(bench.suite().file)
    plain: dict[str, Any] = {
        "set": ["Grain.scale=0.5", "world-blurred.sigma=2"],
        "methods": ["Grain", "world-suns", f"{bench.folder}/plugins.py@grain:fine"],
        "metrics": ["Light", "sharpness", "gsd-dino[world-vit]@tiles:32"], "seeds": [0, 3], "limit": 2,
        "tier": "miniature",
    }  # fmt: skip
    key = rng.choice([*plain, "suite", "shard", "set", "set"])
    if key == "suite":
        resolve(load_suite(damaged_text(rng.choice(("miniature@1", file)), rng)))
    elif key == "shard":
        _shard(damaged_text("1/4", rng))
    elif key in ("seeds", "limit"):
        chosen: Any = [odd_number(3, rng)] if key == "seeds" else odd_number(2, rng)
        resolve(load_suite(file, {key: chosen}))
    else:
        given = [damaged_text(rng.choice(plain[key]), rng)] if key != "tier" else damaged_text(plain[key], rng)
        resolve(load_suite(file, {key: given}))


def odd_number(original: int, rng: random.Random) -> int:
    """Another number, at and beyond the ends of what is allowed."""
    return rng.choice((-1, 0, 1, 10**4, 2**31, 2**63 - 1, 2**63, 10**30))


def pins(bench: Bench, rng: random.Random) -> None:
    from bench.gate_output import toml
    from bench.gate_pin import find_pin
    from bench.measured import sampler_digest

    sampler = {"method": "grain", "method_version": "1", "method_source": "abc", "params": {"scale": 1.0, "steps": 3},
               "backbone": "fake", "weights": "w", "precision": "fp32"}  # fmt: skip
    baseline = {"label": "Grain", "digest": sampler_digest(sampler), **sampler}
    text = toml({"suite": "mine@1", "suite_digest": "0" * 24, "margins": {"sharpness": 0.01}, "baseline": baseline})
    find_pin(str(bench.file("pin.toml", text, rng)))


def margins(bench: Bench, rng: random.Random) -> None:
    from bench.gate import margins_of

    margins_of(bench.suite(), bench.file("margins.toml", MARGINS, rng))


def claims(bench: Bench, rng: random.Random) -> None:
    from bench.claims import read_claims, tables

    if rng.random() < 0.6:
        for claim in read_claims(bench.file("claims.csv", CLAIMS, rng)):
            _ = claim.number, claim.half_digit, claim.printed
        return
    folder = bench.folder / f"published{bench.turn}"
    folder.mkdir()
    bench.turn += 1
    (folder / "msd.csv").write_bytes(damaged_bytes(CLAIMS.encode(), rng) if rng.random() < 0.3 else CLAIMS.encode())
    (folder / "tables.toml").write_bytes(damaged_toml(INDEX, rng))
    for table in tables(folder).values():
        _ = [b.orders() for b in table.blocks], table.sources


def weights(bench: Bench, rng: random.Random) -> None:
    from bench.weights import load_manifest

    load_manifest(bench.file("weights.toml", WEIGHTS, rng))


def protocols(bench: Bench, rng: random.Random) -> None:
    from bench.protocols import load_protocol

    load_protocol(bench.file("protocol.toml", PROTOCOL, rng) if rng.random() < 0.9 else damaged_text("msd-2024", rng))


def scenes(bench: Bench, rng: random.Random) -> None:
    """A prompt's scene, at the three places that read it."""
    from bench.metrics.oracle import caption_match
    from bench.noise import Noise
    from bench.types import Canvas, Prompt
    from bench.world.controls import truth
    from bench.world.draw import draw
    from bench.world.scene import Scene

    scene = damaged_value(SCENE, rng)
    prompt, canvas = Prompt("p", "sea", attributes={"scene": scene}), Canvas(64, 32)
    roll = rng.random()
    if roll < 0.4:
        Scene.from_dict(scene)
    elif roll < 0.7:
        truth.fn(prompt, canvas, Noise(0, "p"))
    elif roll < 0.9:
        from bench.sample import Sample

        caption_match.fn(Sample(np.zeros((32, 64, 3), np.uint8), prompt, canvas))
    else:
        draw(bench.folder / "out.png", None, damaged_text(json.dumps(SCENE), rng), 64)


READERS: dict[str, Callable[[Bench, random.Random], None]] = {
    "suites": suites, "prompts": prompts, "values of prompts": values_of_prompts, "lint": lint, "lists": lists,
    "manifests": manifests, "selections": selections, "options": options, "pins": pins, "margins": margins,
    "claims": claims, "weights": weights, "protocols": protocols, "scenes": scenes,
}  # fmt: skip


@dataclass
class Outcome:
    """Of the cases of one reader: how many were read, how many refused, and what else came out, by case."""

    read: int = 0
    refused: int = 0
    escaped: dict[int, BaseException] = field(default_factory=dict)


def case(reader: str, number: int, bench: Bench) -> None:
    """Run one case; raises what the reader raises."""
    READERS[reader](bench, random.Random(f"{reader}:{number}"))


def fuzz(reader: str, n: int, folder: Path, guard: Callable[[], Any] = lambda: None) -> Outcome:
    """Run the first n cases of a reader. ``guard`` is called before each."""
    bench, outcome = Bench(folder), Outcome()
    for number in range(n):
        guard()
        try:
            case(reader, number, bench)
            outcome.read += 1
        except ScrollBenchError:
            outcome.refused += 1
        except Exception as error:
            outcome.escaped[number] = error
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=2000, help="cases of each reader")
    parser.add_argument("--reader", choices=READERS, action="append")
    parser.add_argument("--case", type=int, help="only this one, with its error let through")
    given = parser.parse_args()
    bad = 0
    for reader in given.reader or READERS:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        try:
            if given.case is not None:
                case(reader, given.case, Bench(folder))
                continue
            outcome = fuzz(reader, given.n, folder, _alarm)
        finally:
            _alarm(0)
            shutil.rmtree(folder, ignore_errors=True)
        kinds = Counter(f"{type(e).__name__} in {_where(e)}" for e in outcome.escaped.values())
        print(f"{reader}: {outcome.read} read, {outcome.refused} refused, {len(outcome.escaped)} escaped", flush=True)
        for kind, count in kinds.most_common(12):
            numbers = [n for n, e in outcome.escaped.items() if f"{type(e).__name__} in {_where(e)}" == kind]
            print(f"    {count} {kind}: {outcome.escaped[numbers[0]]!r:.150} (cases {numbers[:3]})")
        bad += len(outcome.escaped)
    return min(bad, 1)


def _alarm(seconds: int = 20) -> None:
    """No input may keep a reader busy: a case that takes this much time of the processor fails."""
    import signal

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)


def _where(error: BaseException) -> str:
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "/bench/" in f.filename or "/methods/" in f.filename
    ]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "fuzz.py"


if __name__ == "__main__":
    sys.exit(main())
