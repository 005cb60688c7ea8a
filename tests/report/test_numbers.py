"""Every number that a report carries is the leaderboard's, and comparisons are those of ``scrollbench compare``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest

from bench.analysis.board import sections
from bench.analysis.compare import compare
from bench.stats.means import bounds
from bench.store import Store
from bench.store.index import NAME, query
from tests.support.reported import CONTROL, DARK, DARKER, Reported, asked, data

PAGES = ("board", "themes", "compare", "claims", "knobs", "along", "cost")


def carried(out: Path) -> dict[str, dict[tuple[Any, ...], float]]:
    """Page -> what a number is of -> the number, as the report's data have it."""
    board, validity = data(out, "board"), data(out, "validity")
    rows = [row for s in board["sections"] for row in s["rows"]]
    values = data(out, "compare")["values"]["2to1"]
    return {
        "board": {(r["method"], label): spot["value"] for r in rows for label, spot in r["spots"].items()},
        "themes": {(t["method"], t["metric"], t["theme"]): t["value"] for t in board["themes"]},
        "compare": {(m, k, p): v for k, of in values.items() for m, each in of.items() for p, v in each.items()},
        "claims": {(v["method"].lower(),): v["measured"] for (t,) in [data(out, "claims")] for v in t["values"]},
        "knobs": {(r["x"], r["metric"]): r["mean"] for r in validity["knobs"]},
        "along": {(r["method"], r["metric"], r["index"]): r["value"] for r in validity["along"]},
        "cost": {
            (r["method"], k): r[k] for r in data(out, "cost") for k in ("seconds", "nfe", "peak_bytes")
            if r[k] is not None
        },
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_every_number_of_a_page_is_the_leaderboards(reported: Reported, page: str) -> None:
    shown, wanted = carried(reported.out)[page], asked(reported.store)[page]
    assert len(wanted) >= 2
    assert shown == pytest.approx(wanted, rel=1e-12)


def test_in_another_leaderboard_no_number_would_be_found(reported: Reported, tmp_path: Path) -> None:
    """The control of the test above."""
    shutil.copy(reported.store.root / NAME, tmp_path / NAME)
    with duckdb.connect(str(tmp_path / NAME)) as changed:
        changed.execute("update score set value = value + 1")
        changed.execute("update image set seconds = seconds + 1, nfe = nfe + 1, peak_bytes = peak_bytes + 1")
    shown, other = carried(reported.out), asked(Store(tmp_path))
    for page in PAGES:
        assert shown[page].keys() == other[page].keys()
        assert not [k for k, v in shown[page].items() if v == pytest.approx(other[page][k], rel=1e-6)], page


def test_intervals_coverage_and_ranks_are_those_of_the_board(reported: Reported) -> None:
    rows = [row for s in data(reported.out, "board")["sections"] for row in s["rows"]]
    assert len(rows) == 4
    for row in rows:
        values = query(reported.store, f"""select value from pairs where metric = 'level'
            and method = '{row["method"].replace("'", "''")}' order by prompt_id""")[1]  # fmt: skip
        spot = row["spots"]["level"]
        assert (spot["low"], spot["high"]) == pytest.approx(bounds([v for (v,) in values]))
        assert (row["made"], row["wanted"], spot["n"]) == (12, 12, 12)
    ranks = {row["method"]: row["spots"]["level"]["ranks"] for row in rows if not row["control"]}
    board = [row for s in sections(reported.store, reported.suite) for row in s.rows if not row.line.control]
    assert set(ranks) == {"plain", DARK, DARKER}
    assert ranks == {row.line.method: (r := row.spots["level"].ranks) and list(r) for row in board}


def test_places_of_pictures_and_scores_along_them_are_the_leaderboards(reported: Reported) -> None:
    _, store, out = reported
    pictures = data(out, "pictures")
    places = {(p, m, s): pictures["images"][i][0] for _, p, m, s, i in pictures["places"]}
    assert places == {
        tuple(r[:3]): r[3] for r in query(store, "select prompt_id, method, seed, image_id from picture")[1]
    }
    along = data(out, "along")
    rows = query(store, """select image_id, "index", c.value from curve c
        join picture p using (suite_digest, method, prompt_id, seed) where c.metric = 'seam'""")[1]  # fmt: skip
    assert len(rows) == 4 * len(places)
    for image, index, value in rows:
        assert [index, value] in along[image]["seam@whole"]


def test_stages_of_the_cost_are_means_over_pictures(reported: Reported) -> None:
    stages = {r["method"]: r["stages"] for r in data(reported.out, "cost")}
    assert stages["plain"]["denoise"] == 0.25  # what the backbone's meter says of every picture
    assert "denoise" not in stages[CONTROL]


def test_comparisons_are_those_of_the_command(reported: Reported) -> None:
    suite, store, out = reported
    pairs = data(out, "compare")["pairs"]
    assert len(pairs) == (4 * 3 // 2) * 2
    for a, b in (("plain", DARK), ("plain", CONTROL)):
        for c in compare(store, suite, a, b, ("level", "seam")).comparisons:
            (pair,) = [p for p in pairs if {p["a"], p["b"]} == {a, b} and p["metric"] == c.measure.name]
            sign = 1 if pair["a"] == a else -1
            assert {pair["mean_a"], pair["mean_b"]} == {c.a, c.b}
            assert (pair["adjusted"], pair["gain"]["value"]) == (c.adjusted, sign * c.gain.value)
