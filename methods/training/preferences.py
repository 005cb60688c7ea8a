"""Preferences to train on, as ``scrollbench preferences build`` writes them: a folder of pairs, pictures, a card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import UsageError
from bench.ids import digest, file_digest
from bench.ids import image_id as identify
from bench.store.engine import cursor
from bench.store.pictures import read_picture

PAIRS, PICTURES, CARD, IMAGES = "pairs.parquet", "pictures.parquet", "card.json", "images"


@dataclass(frozen=True)
class Pair:
    """Two pictures of one prompt, by id, the better one first."""

    part: str
    prompt_id: str
    prompt: str
    negative: str
    width: int
    height: int
    winner: str
    loser: str
    winner_method: str
    loser_method: str
    winner_seed: int
    loser_seed: int
    winner_score: float
    loser_score: float

    @property
    def gap(self) -> float:
        """By how much the winner's score is the better one."""
        return abs(self.winner_score - self.loser_score)


def is_preferences(path: Path) -> bool:
    """Whether a folder holds preferences."""
    return (path / PAIRS).is_file()


class Preferences:
    """The pairs of a folder.

    Raises:
        UsageError: no such folder, or files that are damaged.
    """

    few = fresh = False

    def __init__(self, path: Path) -> None:
        if not is_preferences(path):
            raise UsageError(
                f"no {PAIRS} in {str(path)!r}; `scrollbench preferences build --out {path}` makes it from a store"
            )
        import duckdb

        self.path = path
        try:
            self.card: dict[str, Any] = json.loads((path / CARD).read_text(encoding="utf-8"))
            with cursor() as con:
                rows = con.execute(f"select {', '.join(FIELDS)} from read_parquet(?)", [str(path / PAIRS)]).fetchall()
        except (duckdb.Error, OSError, ValueError) as error:
            first = str(error).partition("\n")[0]
            raise UsageError(f"the preferences in {path} cannot be read: {first}; build them again") from error
        self.pairs = [Pair(*row) for row in rows]
        self.about = f"{len(self.pairs)} pairs of {self.card['suite']} by {self.card['score']}"
        self.identity = digest([file_digest(path / PAIRS)])

    def kinds(self, side: int, ratio: int) -> Any:
        """Refused: no single pictures."""
        raise UsageError(f"{self.path} holds preferences, for drspo; this training takes pictures with captions")

    draw = look = kinds

    def picture(self, image: str) -> np.ndarray:
        """A picture of a pair, uint8 (height, width, 3), as it was when the pair was made."""
        file = self.path / IMAGES / f"{image}.png"
        if not file.is_file():
            raise UsageError(f"no picture {file}; build the preferences again")
        rgb = read_picture(file)
        if identify(rgb) != image:
            raise UsageError(f"{file} is not the picture that was compared; build the preferences again")
        return rgb


FIELDS = tuple(Pair.__dataclass_fields__)
