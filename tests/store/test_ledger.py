"""Which of two records counts follows from what they say: no clock, no name of a file and no order has a say."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from bench.analysis.board import boards, sections
from bench.pipeline.generate import generate
from bench.pipeline.plan import make_plan
from bench.pipeline.score import score
from bench.report.wording import notes
from bench.store import Store, records
from bench.store.index import build, build_file, query, query_file
from bench.store.index_rows import tabulate
from bench.store.ledger import Ledger
from bench.store.records import stamped
from bench.suites.load import load_suite
from bench.suites.suite import Suite
from tests.support.handmade import Hand
from tests.support.small import write_suite

PLUGINS = '''
from bench.registry import method, metric
from bench.types import Value

@method("flat", family="control")
def flat(prompt, canvas, noise):
    """Grey of a level that its version decides, and a pixel that its prompt does."""
    import numpy as np
    picture = np.full((3, canvas.height, canvas.width), {level})
    picture[:, 0, 0] = 0.03 * (ord(prompt.id[0]) - 96)
    return picture

@metric("glow", scope="image", values={{"glow": "higher"}})
def glow(sample):
    """The level, times what its version says."""
    return [Value("glow", {times} * float(sample.rgb[-1, -1, 0]))]
'''

SUITE = """
name = "clocks"
version = "1"
tier = "miniature"
[[parts]]
name = "2to1"
width = 16
height = 8
prompts = "prompts.jsonl"
[[methods]]
ref = "plugins.py@flat"
label = "flat"
[[metrics]]
ref = "plugins.py@glow"
label = "glow"
"""


def version(folder: Path, level: float, times: float = 1.0) -> Suite:
    """The suite with this version of its one method and its one metric."""
    return load_suite(write_suite(folder / f"{level}-{times}", SUITE, PLUGINS.format(level=level, times=times)))


def work(suite: Suite, store: Store, shard: tuple[int, int] | None = None) -> None:
    generate(make_plan(suite, store, shard), store)
    score(suite, store)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Work done by a machine whose clock is some years wrong, in a segment of its own."""

    def drive(suite: Suite, root: Path, years: int, shard: tuple[int, int] | None = None) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.now(tz) + timedelta(days=365 * years)

        with monkeypatch.context() as skewed:
            skewed.setattr(records, "datetime", Clock)
            work(suite, Store(root), shard)

    return drive


def segments(*roots: Path) -> list[bytes]:
    return [path.read_bytes() for root in roots for path in sorted((root / "records").glob("*.jsonl"))]


def merged(parts: list[bytes], folder: Path) -> Store:
    """A store of these segments, named so that they are read in this order."""
    (folder / "records").mkdir(parents=True)
    for i, part in enumerate(parts):
        (folder / "records" / f"{i}.jsonl").write_bytes(part)
    return Store(folder)


def said(store: Store) -> list[Any]:
    """All that a leaderboard says but of runs and seconds."""
    build(store)
    timeless = "where metric <> 'seconds'"
    queries = (
        f"select * from leaderboard {timeless}",
        f"from pairs {timeless}",
        "select recipe_id, image_id, contested from image",
        *(f"from {table}" for table in ("coverage", "standing", "member")),
    )
    return [query(store, f"{sql} order by all")[1] for sql in queries]


def everywhere(parts: list[bytes], folder: Path) -> Store:
    """A store of these segments, after seeing that the rows of its leaderboard are the same in every order of them."""
    orders = [*permutations(parts), (*parts, *parts)]
    answers = [tabulate(merged(list(order), folder / str(i)).records()) for i, order in enumerate(orders)]
    assert all(answer == answers[0] for answer in answers)
    store = Store(folder / "0")
    build(store)
    return store


def level(store: Store) -> list[tuple[Any, ...]]:
    sql = "select value, n, missing from leaderboard where metric = 'glow'"
    return query(store, sql)[1]


# -- three drivers, clocks a year apart


@pytest.mark.parametrize("years", [(1, 0, -1), (-1, 0, 1), (0, -1, 1)])
def test_drivers_that_know_each_other_leave_the_board_of_the_last_whatever_their_clocks(
    tmp_path: Path, driver: Callable[..., None], years: tuple[int, int, int]
) -> None:
    steps = ((0.2, 1.0), (0.6, 1.0), (0.6, 10.0))  # another sampler, then another source of the metric
    for (grey, times), skew in zip(steps, years):
        driver(version(tmp_path, grey, times), tmp_path / "store", skew)
    store = everywhere(segments(tmp_path / "store"), tmp_path / "merged")
    assert level(store) == [(1530, 3, 0)]  # 10 times grey 153
    assert query(store, "select made, contested, samplers from coverage")[1] == [(3, 0, 1)]
    assert query(store, "select shown, left_out from standing where protocol <> 'cost'")[1] == [(True, 0)]


def test_by_the_clock_the_old_sampler_would_stand_for_ever(
    tmp_path: Path, driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def newest(ledger: Ledger, kind: str, slot: Any) -> list[Any]:
        return sorted(ledger._said[kind].get(slot, []), key=lambda r: r["time"])[-1:]

    for grey, skew in ((0.2, 1), (0.6, 0)):
        driver(version(tmp_path, grey), tmp_path / "store", skew)
    monkeypatch.setattr(Ledger, "heads", newest)
    store = Store(tmp_path / "store")
    build(store)
    assert level(store) == [(51, 3, 0)]


def test_drivers_that_share_the_work_without_knowing_each_other_make_one_board(
    tmp_path: Path, driver: Callable[..., None]
) -> None:
    suite = version(tmp_path, 0.6)
    roots = [tmp_path / f"lab{i}" for i in range(3)]
    for i, root in enumerate(roots):
        driver(suite, root, i - 1, (i + 1, 3))
    work(suite, Store(tmp_path / "alone"))
    assert said(everywhere(segments(*roots), tmp_path / "merged")) == said(Store(tmp_path / "alone"))


def test_drivers_that_contradict_each_other_make_one_board_that_says_so_until_a_run_settles_it(
    tmp_path: Path, driver: Callable[..., None]
) -> None:
    suites = [version(tmp_path, grey) for grey in (0.2, 0.4, 0.6)]
    roots = [tmp_path / f"lab{i}" for i in range(3)]
    for i, (suite, root) in enumerate(zip(suites, roots)):
        driver(suite, root, i - 1)
    store = everywhere(segments(*roots), tmp_path / "merged")
    assert query(store, "select made, contested, samplers from coverage")[1] == [(3, 3, 1)]  # of one version
    said_so = notes(suites[0], sections(store, suites[0]))
    assert any("3 pictures: merged records say two things" in s and suites[0].command in s for s in said_so)
    for wanted, grey in zip((suites[2], suites[0]), (153, 51)):  # whichever of them is run is the one that stands
        work(wanted, store)
        build(store)
        assert level(store) == [(grey, 3, 0)]
        assert query(store, "select made, contested, samplers from coverage")[1] == [(3, 0, 1)]
        assert not any("merged records" in s for s in notes(wanted, sections(store, wanted)))


def test_a_label_with_pictures_of_two_versions_says_so(tmp_path: Path) -> None:
    store, old, new = Store(tmp_path / "store"), version(tmp_path, 0.2), version(tmp_path, 0.6)
    work(old, store)
    shards = ((i, n) for n in range(2, 9) for i in range(1, n + 1))  # which of them holds what is decided by ids
    plan = next(p for shard in shards if 0 < len((p := make_plan(new, store, shard=shard)).jobs) < 3)
    generate(plan, store)
    build(store)
    assert [line.samplers for b in boards(store, new) for line in b.lines] == [2]
    assert any("several versions of a method: flat (2)" in s for s in notes(new, sections(store, new)))


# -- scores of another source


def test_an_edited_metric_replaces_its_old_numbers_and_the_first_source_comes_back_without_being_computed(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "store")
    results = []
    for times in (1.0, 2.0, 7.0, 1.0, 1.0):
        suite = version(tmp_path, 0.6, times)
        generate(make_plan(suite, store), store)
        results.append(score(suite, store))
        build(store)
        assert level(store) == [(times * 153, 3, 0)]
    assert [(r.scored, r.reused) for r in results] == [(3, 0)] * 3 + [(0, 3)] * 2
    count = len(store.records())
    score(suite, store)
    assert len(store.records()) == count  # nothing new to say


def test_a_column_shows_one_source_of_its_metric_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    hand = Hand()
    images = [hand.image(hand.member("a", prompt)) for prompt in ("hill", "lake", "moor")]
    for image, value in zip(images, (1.0, 2.0)):
        hand.score(image, [["gsd-dino", None, value]], source="old")
    hand.score(images[2], [["gsd-dino", None, 30.0]], source="new")
    path = build_file(hand.records, tmp_path / "x.duckdb")
    sql = "select value, n, missing, left_out, metric_source from leaderboard where metric = 'gsd-dino'"
    assert query_file(path, sql)[1] == [(1.5, 2, 1, 1, "old")]
    for image, value in zip(images, (10.0, 20.0)):
        hand.score(image, [["gsd-dino", None, value]], source="new")
    path = build_file(hand.records, tmp_path / "x.duckdb")
    assert query_file(path, sql)[1] == [(20.0, 3, 0, 0, "new")]


def test_two_sources_of_merged_stores_are_never_mixed(tmp_path: Path) -> None:
    labs = {"old": Hand(2025), "new": Hand(2027)}
    for source, hand in labs.items():
        for prompt, value in (("hill", 1.0), ("lake", 2.0)):
            image = hand.image(hand.member("a", prompt))
            hand.score(image, [["gsd-dino", None, value if source == "old" else 10 * value]], source=source)
    answers = []
    for order in (["old", "new"], ["new", "old"]):
        path = build_file([r for lab in order for r in labs[lab].records], tmp_path / "x.duckdb")
        sql = "select value, n, missing, left_out from leaderboard where metric = 'gsd-dino'"
        answers.append(query_file(path, sql)[1])
    assert answers[0] == answers[1]
    assert answers[0] in ([(1.5, 2, 0, 2)], [(15.0, 2, 0, 2)])  # and not a mean of both


def test_equal_pictures_keep_the_numbers_of_the_prompt_that_was_asked(tmp_path: Path) -> None:
    hand = Hand()
    for suite, asked, value in (("one", "a1", 1.0), ("two", "a2", 5.0)):  # a prompt kept its id and changed its text
        hand.image(hand.member("a", "hill", digest=suite * 8, asked=asked), image_id="black")
        hand.score("black", [["clip-score", None, value]], metric="clip-score", prompt_id="hill", asked=asked)
    path = build_file(hand.records, tmp_path / "x.duckdb")
    sql = "select suite_digest, value from pairs where metric = 'clip-score' order by 1"
    assert query_file(path, sql)[1] == [("one" * 8, 1.0), ("two" * 8, 5.0)]


# -- set scores belong to their pictures


def test_the_set_score_that_counts_is_that_of_the_pictures_there_are(tmp_path: Path) -> None:
    hand = Hand()

    def kid() -> list[Any]:
        path = build_file(hand.records, tmp_path / "x.duckdb")
        return query_file(path, "select value, n, missing from leaderboard where metric = 'kid'")[1]

    hand.image(hand.member("a", "hill"))
    hand.image(hand.member("a", "lake"))
    hand.set_score("a", {"kid": 0.2}, n=2)
    assert kid() == [(0.2, 2, 0)]
    hand.image(hand.member("a", "moor"))
    assert kid() == []  # of other pictures than those that are there
    hand.set_score("a", {"kid": 0.3}, n=3)
    assert kid() == [(0.3, 3, 0)]
    hand.image("r-a-moor-0", image_id="other")
    assert kid() == []
    hand.image("r-a-moor-0")  # as it was
    assert kid() == [(0.3, 3, 0)]


# -- the ledger itself


def entry(kind: str, **fields: Any) -> dict[str, Any]:
    return stamped({"time": "2026-01-01T00:00:00Z", "kind": kind, **fields})[0]


def image(image_id: str, *replaces: dict[str, Any], year: int = 2026) -> dict[str, Any]:
    more = {"replaces": [r["id"] for r in replaces]} if replaces else {}
    return entry("image", recipe_id="r", recipe={}, image_id=image_id, time=f"{year}-01-01T00:00:00Z", **more)


def test_what_is_replaced_does_not_count_and_what_replaces_it_may_be_replaced() -> None:
    a = image("a", year=2030)
    b = image("b", a)
    c = image("c", b, year=2020)
    for order in permutations((a, b, c)):
        ledger = Ledger(order)
        assert ledger.images["r"]["image_id"] == "c"
        assert not ledger.contested("image", ("r",))
    assert Ledger([a, c]).contested("image", ("r",))  # what came between them is missing
    assert Ledger([a, b]).images["r"]["image_id"] == "b"


def test_two_heads_are_contested_only_where_they_say_different_things() -> None:
    a, b, again = image("a"), image("b", year=2030), image("a", year=2020)
    assert not Ledger([a, again]).contested("image", ("r",))
    for order in permutations((a, b, again)):
        ledger = Ledger(order)
        assert ledger.contested("image", ("r",))
        assert ledger.images["r"]["image_id"] == "a"
    settled = stamped({"time": "2000-01-01T00:00:00Z", **ledger.replacing(b)})[0]
    assert settled["replaces"] == sorted(r["id"] for r in (a, b, again))
    assert Ledger([a, settled, b, again]).images["r"] == settled


def test_a_record_replaces_nothing_outside_its_slot() -> None:
    a = image("a")
    other = entry("image", recipe_id="s", recipe={}, image_id="x", replaces=[a["id"]])
    assert Ledger([a, other]).images["r"] == a


def test_a_run_is_started_until_proven_finished_in_whatever_order_it_is_told() -> None:
    started = entry("run", run_id="a", status="started", argv=["x"], time="2027-01-01T00:00:00Z")
    finished = entry("run", run_id="a", status="finished", time="2026-01-01T00:00:00Z")
    run = Ledger([started]).runs["a"]
    assert (run["status"], run["finished"]) == ("started", None)
    for order in ([started, finished], [finished, started]):
        run = Ledger(order).runs["a"]
        assert (run["status"], run["argv"]) == ("finished", ["x"])
        assert (run["started"], run["finished"]) == (started["time"], finished["time"])


def test_failures_are_counted_and_a_missing_prerequisite_is_no_attempt() -> None:
    said = [entry("failure", recipe_id="r", recipe={}, reason=r) for r in ("oom", "prerequisite", "crash")]
    assert Ledger(said).attempts("r") == 2
    assert Ledger([]).attempts("r") == 0


def test_a_score_makes_good_the_failures_before_it(tmp_path: Path) -> None:
    hand = Hand()
    picture = hand.image(hand.member("a", "hill"))
    failure = {"key": "k-old", "image_id": picture, "metric": "gsd-dino", "extractor": "world-vit", "view": "tiles",
               "params": {}, "reason": "crash", "message": "no"}  # fmt: skip
    hand.add("score_failure", **failure)
    assert [r["key"] for r in Ledger(hand.records).score_failures] == ["k-old"]
    hand.score(picture, [["gsd-dino", None, 1.0]])
    assert Ledger(hand.records).score_failures == []
    hand.add("score_failure", **{**failure, "key": "k-new"})  # by the next source of the metric: the old number stands
    assert [r["key"] for r in Ledger(hand.records).score_failures] == ["k-new"]
