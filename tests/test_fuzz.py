"""Damaged inputs for every reader: nothing but our own errors.

``SCROLLBENCH_FUZZ=2000`` runs that many of each here, ``python tests/fuzz.py --n 2000`` says what came of each reader.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import fuzz
import mutate
import pytest

CASES = int(os.environ.get("SCROLLBENCH_FUZZ", "40"))  # of each reader


@pytest.mark.parametrize("reader", fuzz.READERS)
def test_a_damaged_input_is_read_or_refused_and_nothing_else_comes_out(reader: str, tmp_path: Path) -> None:
    outcome = fuzz.fuzz(reader, CASES, tmp_path)
    assert outcome.escaped == {}
    assert outcome.read + outcome.refused == CASES
    assert outcome.refused > 0


@pytest.mark.parametrize("reader", fuzz.READERS)
def test_the_same_inputs_without_damage_are_all_read(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("damaged_text", "damaged_value", "odd_number"):
        monkeypatch.setattr(fuzz, name, lambda original, rng: original)
    for name in ("damaged_bytes", "damaged_toml"):
        monkeypatch.setattr(
            fuzz, name, lambda original, rng: original if type(original) is bytes else original.encode()
        )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text(fuzz.jsonl(fuzz.ROWS))
    (tmp_path / "sets" / "mine").mkdir(parents=True)
    (tmp_path / "sets" / "mine" / "prompts.jsonl").write_text(fuzz.jsonl(fuzz.ROWS))
    monkeypatch.setenv("HOME", str(tmp_path))
    bench = fuzz.Bench(tmp_path / "bench")
    for number in range(8):
        fuzz.case(reader, number, bench)


def test_a_case_is_the_same_whatever_was_run_before_it() -> None:
    def inputs() -> list[str]:
        made = (random.Random(f"{i}") for i in range(300))
        return [repr((mutate.damaged_value(fuzz.ROWS, r), mutate.damaged_toml(fuzz.SUITE, r))) for r in made]

    before = repr(mutate.VALUES)
    assert inputs() == inputs()
    assert repr(mutate.VALUES) == before


def test_an_error_that_is_not_ours_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(*_: Any) -> None:
        raise KeyError("seed")

    monkeypatch.setitem(fuzz.READERS, "careless", careless)
    assert list(fuzz.fuzz("careless", 3, tmp_path).escaped) == [0, 1, 2]
