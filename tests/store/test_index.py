"""The index says what the records say: every number below is checked by hand arithmetic."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from bench.errors import StoreError, UsageError
from bench.store import index as index_module
from bench.store.index import build_file, query_file
from bench.store.tables import DERIVED, VIEWS, mean
from tests.support.handmade import DIGEST, Hand


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    return query_file(path, sql)[1]


@pytest.fixture
def hand() -> Hand:
    """Two methods, two prompts, two seeds; method b misses one picture and failed another."""
    hand = Hand()
    hand.run("run1", "started")
    made = {}
    for label in ("a", "b"):
        for prompt in ("hill", "lake"):
            for seed in (0, 1):
                recipe = hand.member(label, prompt, seed)
                if (label, prompt) != ("b", "lake"):
                    made[label, prompt, seed] = hand.image(recipe, nfe=8 if label == "a" else 16)
    hand.failure("r-b-lake-0")
    # a: hill (1 + 2) / 2 = 1.5; lake only seed 1 = 6 -> mean of prompts 3.75, not the mean of pictures 3
    hand.score(made["a", "hill", 0], [["gsd-dino", None, 1.0], ["gsd-dino", 0, 9.0]])
    hand.score(made["a", "hill", 1], [["gsd-dino", None, 2.0]])
    hand.score(made["a", "lake", 0], [["gsd-dino", None, None]])
    hand.score(made["a", "lake", 1], [["gsd-dino", None, 6.0]])
    hand.score(made["b", "hill", 0], [["gsd-dino", None, 4.0]])
    hand.set_score("a", {"kid": 0.25}, n=4)
    hand.run("run1", "finished")
    return hand


@pytest.fixture
def index(hand: Hand, tmp_path: Path) -> Path:
    return build_file(hand.records, tmp_path / "leaderboard.duckdb")


def board(path: Path, metric: str) -> dict[str, tuple[Any, ...]]:
    found = rows(path, f"select method, value, n, undefined, missing from leaderboard where metric = '{metric}'")
    return {r[0]: r[1:] for r in found}


def test_seeds_are_averaged_inside_a_prompt_before_prompts(index: Path) -> None:
    assert board(index, "gsd-dino")["a"] == (3.75, 3, 1, 0)


def test_a_whole_picture_value_wins_over_its_curve(index: Path) -> None:
    assert rows(index, "select value from pairs where metric = 'gsd-dino' and method = 'a' and prompt_id = 'hill'") == [
        (1.5,)
    ]
    assert rows(index, 'select "index", value from curve') == [(0, 9.0)]


def test_without_a_whole_picture_value_the_views_are_averaged_and_one_undefined_view_leaves_it_undefined(
    tmp_path: Path,
) -> None:
    hand = Hand()
    for prompt, values in (("hill", [2.0, 4.0]), ("lake", [2.0, None])):
        image = hand.image(hand.member("a", prompt))
        hand.score(image, [["clip-score", i, v] for i, v in enumerate(values)], metric="clip-score")
    assert board(build_file(hand.records, tmp_path / "x.duckdb"), "clip-score") == {"a": (3.0, 1, 1, 0)}


def test_a_curve_without_direction_has_no_mean_on_the_board(tmp_path: Path) -> None:
    hand = Hand()
    curve = [["gsd-dino-lag", lag, 0.5] for lag in (1, 2)]
    hand.score(hand.image(hand.member("a", "hill")), [["gsd-dino", None, 1.0], *curve])
    path = build_file(hand.records, tmp_path / "x.duckdb")
    assert board(path, "gsd-dino-lag") == {}
    assert board(path, "gsd-dino") == {"a": (1.0, 1, 0, 0)}
    assert rows(path, "select count(*) from curve") == [(2,)]


def test_missing_is_missing_and_never_zero(index: Path) -> None:
    assert board(index, "gsd-dino")["b"] == (4.0, 1, 0, 3)
    assert board(index, "kid") == {"a": (0.25, 4, 0, 0), "b": (None, 0, 0, 4)}


def test_coverage_counts_made_failed_and_waiting_pictures(index: Path) -> None:
    found = rows(index, "select method, wanted, made, failed, waiting from coverage order by method")
    assert found == [("a", 4, 4, 0, 0), ("b", 4, 2, 1, 1)]


def test_a_failure_that_was_made_good_is_not_counted(hand: Hand, tmp_path: Path) -> None:
    hand.image("r-b-lake-0")
    path = build_file(hand.records, tmp_path / "x.duckdb")
    assert rows(path, "select failed, waiting from coverage where method = 'b'") == [(0, 1)]


def test_cost_is_on_the_board_as_metrics(index: Path) -> None:
    assert board(index, "nfe") == {"a": (8.0, 4, 0, 0), "b": (16.0, 2, 0, 2)}
    assert board(index, "seconds")["a"] == (1.5, 4, 0, 0)  # denoise 1.0 + decode 0.5
    assert board(index, "peak_bytes")["a"] == (1000.0, 4, 0, 0)
    assert rows(index, "select distinct direction, unit from leaderboard where metric = 'seconds'") == [("lower", "s")]


def test_a_peak_that_could_not_be_measured_is_undefined(tmp_path: Path) -> None:
    hand = Hand()
    hand.image(hand.member("a", "hill"), peak=None)
    assert board(build_file(hand.records, tmp_path / "x.duckdb"), "peak_bytes") == {"a": (None, 0, 1, 0)}


def test_a_score_that_replaces_another_counts(hand: Hand, tmp_path: Path) -> None:
    hand.score("i-b-hill-0", [["gsd-dino", None, 5.0]])
    assert board(build_file(hand.records, tmp_path / "x.duckdb"), "gsd-dino")["b"] == (5.0, 1, 0, 3)


def test_a_picture_made_again_leaves_its_old_scores_behind(hand: Hand, tmp_path: Path) -> None:
    hand.image("r-b-hill-0", image_id="other-pixels")
    assert board(build_file(hand.records, tmp_path / "x.duckdb"), "gsd-dino")["b"] == (None, 0, 0, 4)


def test_equal_pictures_of_two_prompts_keep_their_own_prompted_scores(tmp_path: Path) -> None:
    hand = Hand()
    for prompt, value in (("hill", 1.0), ("lake", 5.0)):
        hand.image(hand.member("a", prompt), image_id="black")
        hand.score("black", [["clip-score", None, value]], metric="clip-score", prompt_id=prompt)
    path = build_file(hand.records, tmp_path / "x.duckdb")
    assert rows(path, "select prompt_id, value from pairs where metric = 'clip-score' order by 1") == [
        ("hill", 1),
        ("lake", 5),
    ]


def test_tiers_and_suites_never_mix(hand: Hand, tmp_path: Path) -> None:
    other = "f" * 24  # the same label, prompts and even pictures in a suite of tier full
    for prompt in ("hill", "lake"):
        hand.member("a", prompt, 0, suite="big@1", digest=other, tier="full")
    hand.set_score("a", {"kid": 0.75}, n=2, suite="big@1", digest=other)
    path = build_file(hand.records, tmp_path / "x.duckdb")
    found = rows(
        path, "select tier, suite_digest, value, n from leaderboard where method = 'a' and metric = 'kid' order by 1"
    )
    assert found == [("full", other, 0.75, 2), ("miniature", DIGEST, 0.25, 4)]
    found = rows(path, "select tier, value from leaderboard where method = 'a' and metric = 'gsd-dino' order by 1")
    assert found == [("full", 1.0), ("miniature", 3.75)]
    assert rows(
        path, "select count(*) from (select suite_digest from leaderboard group by 1 having count(distinct tier) > 1)"
    ) == [(0,)]


def test_other_extractors_views_and_references_are_other_rows(hand: Hand, tmp_path: Path) -> None:
    hand.score("i-a-hill-0", [["gsd-dino", None, 100.0]], view="squash")
    path = build_file(hand.records, tmp_path / "x.duckdb")
    found = rows(
        path, "select view, seen, value from leaderboard where method = 'a' and metric = 'gsd-dino' order by view"
    )
    assert found == [("squash", 0.25, 100.0), ("tiles", 1.0, 3.75)]


def test_building_again_gives_the_same_whatever_the_order_of_the_files(hand: Hand, tmp_path: Path, index: Path) -> None:
    shuffled = list(hand.records)
    random.Random(0).shuffle(shuffled)
    again = build_file(shuffled, tmp_path / "again.duckdb")
    for view in ("leaderboard", "coverage", "pairs", "curve", "run"):
        assert rows(index, f"from {view} order by all") == rows(again, f"from {view} order by all")
    changed = [{**r, "values": {"kid": 0.5}} if r["kind"] == "set_score" else r for r in hand.records]
    assert board(build_file(changed, tmp_path / "again.duckdb"), "kid") != board(index, "kid")


def test_means_are_summed_in_one_order_to_the_last_bit() -> None:
    values = {"a": 1e16, "b": 1.0, "c": -1e16}  # 0 in this order; 1 where the first meets the last before b
    ordered, plain = set(), set()
    for order in ("abc", "acb", "cab", "bca"):
        records = ", ".join(f"('{prompt}', {values[prompt]}::double)" for prompt in order)
        [(one, other)] = duckdb.sql(f"select {mean('v', 'p')}, avg(v) from (values {records}) t(p, v)").fetchall()
        ordered.add(one)
        plain.add(other)
    assert ordered == {0.0}
    assert len(plain) > 1
    assert not [name for name, view in {**VIEWS, **DERIVED}.items() if re.search(r"(?<!list_)avg\(", view)]


def test_a_run_is_started_until_it_is_finished(hand: Hand, tmp_path: Path) -> None:
    hand.run("run2", "started")
    path = build_file(hand.records, tmp_path / "x.duckdb")
    found = rows(
        path,
        "select run_id, status, finished is not null, torch "
        "from run join environment using (environment_id) order by all",
    )
    assert found == [("run1", "finished", True, "2.14"), ("run2", "started", False, "2.14")]


def test_scores_that_failed_are_listed_until_they_succeed(hand: Hand, tmp_path: Path) -> None:
    for key, image in (("k1", "i-b-hill-1"), ("k-i-a-hill-0-gsd-dino-tiles-None-None-s", "i-a-hill-0")):
        hand.add(
            "score_failure", key=key, image_id=image, metric="gsd-dino", view="tiles", reason="crash", message="no"
        )
    hand.score("i-a-hill-0", [["gsd-dino", None, 1.0]])
    path = build_file(hand.records, tmp_path / "x.duckdb")
    assert rows(path, "select image_id, reason from score_failure") == [("i-b-hill-1", "crash")]


def test_an_empty_store_gives_an_empty_board(tmp_path: Path) -> None:
    assert rows(build_file([], tmp_path / "x.duckdb"), "from leaderboard") == []


def test_undefined_numbers_are_null(tmp_path: Path) -> None:
    hand = Hand()
    hand.score(hand.image(hand.member("a", "hill")), [["gsd-dino", None, None], ["gsd-dino", 0, 1.5]])
    found = rows(build_file(hand.records, tmp_path / "x.duckdb"), 'select "index", value from score')
    assert found == [(None, None), (0, 1.5)]


def test_pandas_and_two_readers_can_read_at_once(index: Path) -> None:
    with duckdb.connect(str(index), read_only=True) as con:
        frame = con.sql("select method, value from leaderboard where metric = 'nfe' order by method").df()
        assert frame["value"].tolist() == [8.0, 16.0]
        ask = "sql('from coverage').fetchall()[0][4]"
        code = f"import duckdb; print(duckdb.connect({str(index)!r}, read_only=True).{ask})"
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert second.stdout.strip() == "a"


def test_the_index_is_replaced_in_one_step_and_leaves_nothing_else(hand: Hand, index: Path) -> None:
    before = index.stat().st_ino
    build_file(hand.records, index)
    assert index.stat().st_ino != before
    assert [p.name for p in index.parent.iterdir()] == [index.name]


KILLED = """
import duckdb, os, signal, sys
con = duckdb.connect(sys.argv[1])
con.execute("update score set value = 42")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed(index: Path) -> Path:
    """A leaderboard that a client had open for writing when it was killed."""
    subprocess.run([sys.executable, "-c", KILLED, str(index)], check=False)
    assert [p.name for p in index.parent.glob("*.wal")] == [f"{index.name}.wal"]
    return index


def test_a_killed_clients_wal_is_not_replayed_over_the_new_leaderboard(
    hand: Hand, killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = "select max(value) from score"
    monkeypatch.setattr(index_module, "_sidecars", lambda path: [])  # the control: DuckDB replays whatever lies there
    build_file(hand.records, killed)
    assert rows(killed, ask) == [(42.0,)]
    monkeypatch.undo()
    build_file(hand.records, killed)
    assert rows(killed, ask) == [(9.0,)]
    assert [p.name for p in killed.parent.iterdir()] == [killed.name]


def test_a_wal_beside_the_leaderboard_is_refused_by_readers_that_change_nothing(hand: Hand, killed: Path) -> None:
    before = sorted(p.name for p in killed.parent.iterdir())
    with pytest.raises(StoreError, match=r"leaderboard.duckdb.wal: .*scrollbench store index"):
        rows(killed, "select 1")
    assert sorted(p.name for p in killed.parent.iterdir()) == before
    killed.unlink()  # only the leaderboard is deleted, and then built again
    build_file(hand.records, killed)
    assert rows(killed, "select max(value) from score") == [(9.0,)]


def test_a_reader_keeps_the_leaderboard_it_opened_while_a_new_one_is_put_in_place(hand: Hand, index: Path) -> None:
    ask = "select value from leaderboard where metric = 'kid' and method = 'a'"
    with duckdb.connect(str(index), read_only=True) as con:
        hand.set_score("a", {"kid": 0.5}, n=4)
        build_file(hand.records, index)
        assert con.execute(ask).fetchall() == [(0.25,)]
        code = f"import duckdb; print(duckdb.connect({str(index)!r}, read_only=True).execute({ask!r}).fetchall())"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert other.stdout.strip() == "[(0.5,)]"


def test_clients_from_1_2_on_can_read_the_file(index: Path) -> None:
    tags = rows(index, "select tags['storage_version'] from duckdb_databases() where path is not null")
    assert tags[0][0].startswith("v1.2.0")


def test_wrong_sql_names_near_misses(index: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'leaderboard'"):
        query_file(index, "select * from leaderbord")
    with pytest.raises(UsageError, match="method"):
        query_file(index, "select methd from leaderboard")
    with pytest.raises(UsageError, match="syntax error"):
        query_file(index, "selct 1")


def test_a_query_cannot_change_the_index(index: Path) -> None:
    with pytest.raises(UsageError, match="read-only"):
        query_file(index, "drop table score")


def test_a_missing_index_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="scrollbench store index"):
        query_file(tmp_path / "leaderboard.duckdb", "select 1")


FORBIDDEN = (
    "copy score to '{}/out.csv'", "copy (select 1) to '{}/out.parquet'", "export database '{}/out'", "from '{}/in.csv'",
    "select * from read_text('{}/in.csv')", "select * from glob('{}/*')", "attach '{}/other.duckdb'", "install httpfs",
    "load httpfs", "set enable_external_access = true", "reset lock_configuration", "insert into suite values (1)",
    "create table x (a int)", "drop view leaderboard", "from 'https://example.com/x.parquet'",
)  # fmt: skip


def test_a_strangers_sql_reads_the_leaderboard_and_nothing_else(index: Path) -> None:
    (index.parent / "in.csv").write_text("a\n1\n")
    for statement in FORBIDDEN:
        with pytest.raises(UsageError):
            query_file(index, statement.format(index.parent), locked=True)
    assert sorted(p.name for p in index.parent.iterdir()) == ["in.csv", index.name]
    assert query_file(index, "select count(*) from leaderboard", locked=True)[1] == query_file(
        index, "select count(*) from leaderboard"
    )[1]  # fmt: skip
    for empty in ("", "  ;", "-- nothing"):
        with pytest.raises(UsageError, match='an empty query; "show tables"'):
            query_file(index, empty, locked=True)
    query_file(index, f"copy suite to '{index.parent}/out.csv'")  # negative control: without the lock it is written
    assert (index.parent / "out.csv").exists()


def test_the_leaderboard_tells_its_rows_apart_by_label_and_says_where_pictures_come_from(tmp_path: Path) -> None:
    hand = Hand()
    for prompt, value in (("hill", 1.0), ("lake", 2.0), ("pier", 4.0)):
        image = hand.image(hand.member("a", prompt), flags=("adopted", "lossy-source"))
        for view in ("tiles", "squash"):
            hand.score(image, [["gsd-dino", None, value]], view=view)
    hand.member("truth", "hill", control=True)
    for label, view in (("near", "tiles"), ("far", "squash")):
        hand.add("column", suite_digest=DIGEST, label=label, name="gsd-dino", metric="gsd-dino", extractor="world-vit",
                 view=view, reference=None, params={}, direction="lower", numbers=2, least=0.0, most=5.0)  # fmt: skip
    path = build_file(hand.records, tmp_path / "x.duckdb")
    found = rows(path, "select label, view, n, provenance, low, high from leaderboard where metric = 'gsd-dino' "
                       "and method = 'a' order by label")  # fmt: skip
    assert [row[:4] for row in found] == [
        ("far", "squash", 3, "adopted from lossy files"), ("near", "tiles", 3, "adopted from lossy files"),
    ]  # fmt: skip
    assert all(0.0 <= low < 7 / 3 < high <= 5.0 for *_, low, high in found)
    assert rows(path, "select distinct provenance from leaderboard where method = 'truth'") == [
        ("control: drawn, not generated",)
    ]
    for view in ("leaderboard", "pairs", "curve", "observation"):  # a number has one name everywhere
        assert "metric" in query_file(path, f"from {view} limit 0")[0]
        assert "name" not in query_file(path, f"from {view} limit 0")[0]
