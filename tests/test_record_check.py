"""What no leaderboard could hold is refused at the door, and set aside by name where it is in a store already."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from handmade import Hand

from bench.errors import StoreError, UsageError
from bench.index import build, query
from bench.ledger import Ledger
from bench.records import Record, stamped
from bench.store import Store

SURROGATE = "a lone oak \ud83d"


def hand() -> Hand:
    """One of every kind that a leaderboard is made of."""
    hand = Hand()
    hand.run("run1", "started")
    for prompt in ("hill", "lake"):
        image = hand.image(hand.member("a", prompt))
        hand.score(image, [["gsd-dino", None, 1.5], ["gsd-dino", 0, 2.5]])
    hand.failure(hand.member("a", "moor"))
    hand.set_score("a", {"kid": 0.25}, n=2)
    hand.add("score_failure", key="k", image_id="i", metric="gsd-dino", view="tiles", reason="crash", message="no")
    hand.run("run1", "finished")
    return hand


def forged(record: Any) -> bytes:
    """A line that matches its id, whatever it says: as another program may write it."""
    rest = (json.dumps(record)[1:] if isinstance(record, dict) else str(record)).encode()
    return b'{"id":"%s",' % hashlib.sha256(rest).hexdigest()[:24].encode() + rest + b"\n"


def bare(record: Record) -> Record:
    return {k: v for k, v in record.items() if k not in ("id", "v")}


def stored(folder: Path, lines: list[bytes]) -> Store:
    (folder / "records").mkdir(parents=True, exist_ok=True)
    (folder / "records" / "a.jsonl").write_bytes(b"".join(lines))
    return Store(folder)


def lines(records: list[Record]) -> list[bytes]:
    return [stamped(r)[1] for r in records]


# -- at the door

IMAGE = {"kind": "image", "recipe_id": "r", "recipe": {"prompt": "an oak", "seed": 1}, "image_id": "i"}
SCORE = {"kind": "score", "key": "k", "image_id": "i", "metric": "m", "values": [["m", 0, 1.0]]}
BAD = [
    ({**IMAGE, "recipe": {"prompt": SURROGATE}}, r"recipe\.prompt: .*half a surrogate pair"),
    ({**IMAGE, "recipe": {SURROGATE: 1}}, r"recipe \(a name in it\): .*half a surrogate pair"),
    ({**IMAGE, "recipe": {"seed": 2**63}}, r"recipe\.seed: a whole number beyond 64 bits"),
    ({**IMAGE, "recipe": {"seed": "1"}}, r"recipe\.seed: expected a whole number, got str"),
    ({**IMAGE, "recipe": {"params": {"guidance": float("nan")}}}, r"recipe\.params\.guidance: nan is no finite number"),
    ({**IMAGE, "recipe": {"canvas": {"width": 2**40, "height": 8}}}, r"recipe\.canvas: 1099511627776x8 is no canvas"),
    ({**IMAGE, "flags": [SURROGATE]}, r"flags\[0\]: .*half a surrogate pair"),
    ({**IMAGE, "image_id": None}, "without 'image_id'"),
    ({**SCORE, "values": [["m", 0, 1.0], ["m", 1, float("inf")]]}, r"values\[1\]\[2\]: inf is no finite number"),
    ({**SCORE, "values": [["m", -(2**63) - 1, 1.0]]}, r"values\[0\]\[1\]: a whole number beyond 64 bits"),
    ({**SCORE, "values": [["m", 0, "1"]]}, r"values\[0\]: expected \[name, index or null, number or null\]"),
    ({**SCORE, "values": [["m", 0, object()]]}, r"values\[0\]: expected \[name, index or null, number or null\]"),
    ({**SCORE, "time": "yesterday"}, "time: expected a time such as"),
    (
        {"kind": "note", "x": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]},
        "x.*: more than 32 levels",
    ),
]


@pytest.mark.parametrize(("record", "why"), BAD)
def test_what_cannot_be_kept_is_refused_with_its_field(tmp_path: Path, record: Record, why: str) -> None:
    store = Store(tmp_path)
    with pytest.raises(UsageError, match=why):
        store.append(record)
    assert store.records() == []


def test_a_failure_is_recorded_whatever_its_message_and_a_run_whatever_its_command_line(tmp_path: Path) -> None:
    store = Store(tmp_path)
    recipe = {"prompt": "an oak"}
    store.append({"kind": "failure", "recipe_id": "r", "recipe": recipe, "reason": "crash", "message": SURROGATE})
    store.append({"kind": "run", "run_id": "x", "status": "started", "argv": ["--suite", "caf\udce9.toml"]})
    store.append({**IMAGE, "cost": {"nfe": 2**70, "seconds": {"denoise": float("nan")}}})
    failure, run, picture = store.records()
    assert failure["message"] == "a lone oak \\ud83d"
    assert run["argv"] == ["--suite", "caf\\udce9.toml"]
    assert picture["cost"] == {"nfe": None, "seconds": {"denoise": None}}
    build(store)
    assert query(store, "select message from failure")[1] == [("a lone oak \\ud83d",)]


def test_whole_texts_beyond_ascii_are_kept_as_they_are(tmp_path: Path) -> None:
    store = Store(tmp_path)
    text = "une forêt, 森, 🌲 and \0 \u2028"
    store.append({**IMAGE, "recipe": {"prompt": text}})
    assert store.records()[0]["recipe"]["prompt"] == text
    build(store)
    assert query(store, "select prompt from recipe")[1] == [(text,)]


# -- in a store already


def kept(record: Record) -> bool:
    """Whether a file of JSON can hold it at all."""
    try:
        return bool(json.dumps(record))
    except TypeError:
        return False


@pytest.mark.parametrize(("record", "why"), [(record, why) for record, why in BAD if kept(record)])
def test_one_bad_record_takes_no_board_away_and_is_named_by_index_verify_and_repair(
    tmp_path: Path, record: Record, why: str
) -> None:
    sound = lines(hand().records)
    bad = forged({"v": 2, "time": "2026-01-01T00:00:00Z", **record})
    store = stored(tmp_path, [*sound[:3], bad, *sound[3:]])
    with pytest.warns(RuntimeWarning, match=rf"a\.jsonl:4: this record is left out: .*{why}.*--repair"):
        build(store)
    assert query(store, "select value from leaderboard where metric = 'gsd-dino'")[1] == [(1.5,)]
    report = store.verify()
    assert not report.ok
    assert "a.jsonl:4: " in report.unreadable[0]
    assert store.verify(repair=True).ok
    assert (tmp_path / "records" / "a.jsonl").read_bytes() == b"".join(sound)
    assert (tmp_path / "records" / "a.jsonl.bad").read_bytes() == bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(store)


# -- bits that flip, writes cut short, fields that are anything


def flips(content: bytes, count: int, rng: random.Random) -> Iterator[bytes]:
    for _ in range(count):
        at = rng.randrange(len(content))
        yield content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]


def test_a_flipped_bit_is_loud_wherever_it_is(tmp_path: Path) -> None:
    content = b"".join(lines(hand().records))
    for changed in flips(content, 300, random.Random(0)):
        store = stored(tmp_path, [changed])
        with pytest.raises(StoreError, match=r"a\.jsonl:\d+: damaged record.*store verify --repair"):
            store.records()
        assert not store.verify().ok


def test_without_the_ids_a_flipped_bit_would_be_another_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"".join(lines(hand().records)).replace(b'["gsd-dino",null,1.5]', b'["gsd-dino",null,9.5]')
    monkeypatch.setattr("bench.records._sound", lambda line: True)
    store = stored(tmp_path, [content])
    build(store)
    assert query(store, "select value from leaderboard where metric = 'gsd-dino'")[1] == [(9.5,)]


def test_a_cut_leaves_the_whole_lines_before_it(tmp_path: Path) -> None:
    whole = lines(hand().records)
    content, rng = b"".join(whole), random.Random(0)
    for _ in range(100):
        cut = rng.randrange(len(content))
        kept = content[:cut].count(b"\n")
        assert stored(tmp_path, [content[:cut]]).records() == [json.loads(line) for line in whole[:kept]]


ODD: list[Any] = [
    None, True, -1, 0, 2**63 - 1, 2**63, 2**70, -(2**63) - 1, 1.5, 1e308, float("nan"), float("inf"), "", "x",
    SURROGATE, "\0", "x.py@y", "../../x", "tiles:99999999999999999999", "[]",
    "'; drop table score; --", [], [[]], [None], ["x"],
    [1, "x"], {}, {"": None}, {"x": {"y": [2**64]}}, {"width": 0, "height": -5}, {"width": 2**31, "height": 2**31},
    "2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-13-01T00:00:00Z", "0000-01-01T00:00:00Z",
]  # fmt: skip


def mutated(record: Record, rng: random.Random) -> bytes:
    """A line with one to three fields, at any depth, left out, said twice, moved, or of any value."""
    record = copy.deepcopy(bare(record))
    for _ in range(rng.randint(1, 3)):
        place: Any = record
        while isinstance(place, dict | list) and place:
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
            deeper = isinstance(place[key], dict | list) and place[key] and rng.random() < 0.6
            if not deeper:
                what = rng.random()
                if what < 0.2:
                    del place[key]
                elif what < 0.3 and isinstance(place, dict):
                    place[rng.choice(["x", "values", "replaces", "cost", "recipe", "turn"])] = place.pop(key)
                else:
                    place[key] = rng.choice(ODD)
                break
            place = place[key]
    if rng.random() < 0.9:
        return forged({"v": 2, **record})
    said_twice = rng.choice([*record, "kind"])
    return forged(json.dumps({"v": 2, **record})[1:-1] + f', "{said_twice}": {json.dumps(rng.choice(ODD))}}}')


def survive(folder: Path, seed: int, count: int) -> int:
    """Build a leaderboard of sound records and ``count`` mutated ones; returns how many of these were left out."""
    rng = random.Random(seed)
    sound = hand().records
    line = [mutated(rng.choice(sound), rng) for _ in range(count)]
    store = stored(folder, [*lines(sound), *line])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build(store)
    for view in ("leaderboard", "coverage", "pairs", "curve", "picture", "observation", "standing", "run"):
        query(store, f"from {view}")
    assert query(store, "select count(*) from member where prompt_id = 'lake' and part = '4to1'")[1][0][0] >= 1
    assert Ledger(store.records()).runs["run1"]
    return len({str(w.message) for w in caught})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_records_of_any_content_leave_the_leaderboard_to_the_others(tmp_path: Path, seed: int) -> None:
    assert 10 < survive(tmp_path, seed, 50) <= 50
