"""What a run can make of its references it makes; what needs real photographs says so by that word."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.catalogue.listing import listing
from bench.report.wording import notes
from bench.suites.load import load_suite
from bench.suites.natives import natives
from tests.support.small import SUITE, small

KID = (
    SUITE
    + """
[[metrics]]
ref = "kid"
reference = "real"
[references.real]
kind = "folder"
path = "real"
planned = true
"""
)
SQUARES = {
    "pano-1k": "squares", "scrollscape-table1": "squares", "msd-fig4": "squares", "panollama-table1": "base-sd20",
}  # fmt: skip


def test_a_column_without_its_photographs_says_that_it_needs_them(tmp_path: Path) -> None:
    asking = small(tmp_path / "asking", KID + 'photographs = "200, 512x512, of COCO"\n')
    metric, reference = asking.unavailable
    assert metric.reason == "needs photographs: its reference 'real' is not here"
    assert reference.reason.endswith("real: 200, 512x512, of COCO")
    assert "needs photographs (`scrollbench list references`): kid" in notes(asking, [])
    silent = small(tmp_path / "silent", KID)  # a folder of anything else
    assert silent.unavailable[0].reason == "its reference 'real' is not here"
    assert "metrics the suite names that are not here: kid" in notes(silent, [])


@pytest.mark.parametrize(("suite", "name"), SQUARES.items())
def test_squares_of_a_suites_own_network_are_made_by_its_run(suite: str, name: str) -> None:
    loaded = load_suite(suite, {"limit": 2})
    (part, *_) = natives(loaded)[name].parts
    assert (part.canvas.width, part.canvas.height) == (512, 512)
    assert name not in [u.label for u in loaded.unavailable]


def test_photographs_to_bring_are_one_list_with_sizes_and_sources() -> None:
    asked = {row["name"]: row["photographs"] for row in listing("references") if row.get("photographs")}
    assert {"pano-1k/panoramas", "panollama-table1/photographs", "scale-dit-4k/photographs"} <= set(asked)
    assert "200 or more" in asked["pano-1k/panoramas"]
    assert "pano-1k/squares" not in asked
