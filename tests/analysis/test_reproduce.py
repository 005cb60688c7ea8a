"""Claims get a verdict from paired differences of the matching suite, tier and protocol, and from nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace as Namespace
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.analysis import claims
from bench.analysis.claims import COLUMNS, Claim, find_table, tables
from bench.analysis.readings import Measured, intervals
from bench.analysis.reproduce import OPEN, REFUTED, REPRODUCED, order_verdict, reproduce, value_verdict
from bench.cli import claims as cli_claims
from bench.cli.app import main
from bench.errors import StoreError, UsageError
from bench.store import Store
from bench.store.index import NAME, build_file
from bench.suites.values import Unavailable
from bench.types import Canvas
from tests.support.handmade import DIGEST, Hand

PROMPTS = [f"p{i}" for i in range(12)]
TABLE = """
tiny,table1,One,GSD,0.50,,lower,,32x128,,,paper,here
tiny,table1,Two,GSD,0.60,,lower,,32x128,,,paper,here
tiny,table1,Three,GSD,0.90,,lower,,32x128,,,paper,here
tiny,table1,Ghost,GSD,0.10,,lower,,32x128,,,paper,here
tiny,table1,One,FID,10,,lower,,32x128,,,paper,here
tiny,table1,Two,FID,20,,lower,,32x128,,,paper,here
tiny,table1,One,COH,1,,lower,,32x128,,,paper,here
tiny,table1,Two,COH,2,,lower,,32x128,,,paper,here
"""
INDEX = """
[papers]
tiny = { title = "Tiny", own = "One" }
["tiny:table1"]
title = "Table 1"
suite = "tiny"
columns = { GSD = ["gsd"], FID = ["fid"] }
differs = ["everything is made up"]
"""


@pytest.fixture
def table(tmp_path: Path) -> claims.Table:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "tiny.csv").write_text(",".join(COLUMNS) + TABLE, encoding="utf-8")
    (folder / "tables.toml").write_text(INDEX, encoding="utf-8")
    return find_table("tiny:table1", folder)


def use(ref: str, label: str, reference: str | None = None, extractor: str = "world-vit") -> Any:
    metric = Namespace(name=ref, values={ref: "lower"}, unit="", range=(None, None))
    return Namespace(
        ref=ref, label=label, metric=metric, view="tiles", extractor=extractor, reference=reference, params={}
    )


def suite(tier: str = "full", digest: str = DIGEST) -> Any:
    made = Namespace(
        ref="tiny@1", name="tiny", tier=tier, digest=digest, command="--suite tiny",
        parts=(Namespace(name="4to1", canvas=Canvas(128, 32)),),
        methods=[Namespace(label=label, backbone="world-sd") for label in ("one", "two", "three")],
        metrics=[use("gsd-dino", "gsd"), use("fid", "fid", "panoramas", "world-cnn")],
        spec=Namespace(protocol="msd-2024"),
        unavailable=(Unavailable("method", "Ghost", "ghost", "not in this project"),),
    )  # fmt: skip
    made.whole = made
    return made


def store(tmp_path: Path, values: dict[str, list[float]], tier: str = "full", fid: bool = False) -> Any:
    """A leaderboard in which every method has a value for every prompt."""
    hand = Hand()
    for label, numbers in values.items():
        for prompt, value in zip(PROMPTS, numbers):
            image = hand.image(hand.member(label, prompt, tier=tier))
            hand.score(image, [["gsd-dino", None, value]])
            hand.score(image, [["gsd-dino", None, 7.0]], view="squash")  # another protocol: must not be taken
        if fid:
            hand.set_score(label, {"fid": 100.0}, n=len(numbers), metric="fid")
    build_file(hand.records, tmp_path / NAME)
    return Store(tmp_path)


WAVE = [0.02 * (i % 5 - 2) for i in range(12)]  # spread over prompts, sum -0.04
AS_CLAIMED = {
    "one": [0.50 + w for w in WAVE],
    "two": [0.60 + w + 0.01 * (i % 2) for i, w in enumerate(WAVE)],
    "three": [0.90 - w for w in WAVE],
}


def verdicts(result: Any, metric: str = "GSD") -> dict[str, str]:
    values = {r.claim.method: r.verdict.verdict for r in result.values if r.claim.metric == metric}
    return values | {
        f"{r.order.better}>{r.order.worse}": r.verdict.verdict for r in result.orders if r.order.metric == metric
    }


def test_numbers_and_orders_that_were_measured_again_are_reproduced(table: Any, tmp_path: Path) -> None:
    result = reproduce(table, suite(), store(tmp_path, AS_CLAIMED))
    found = verdicts(result)
    assert {k: found[k] for k in ("One", "Two", "Three", "One>Two", "One>Three", "Two>Three")} == dict.fromkeys(
        ("One", "Two", "Three", "One>Two", "One>Three", "Two>Three"), REPRODUCED
    )
    (agreement,) = [a for a in result.agreement if a.metric == "GSD"]
    assert (agreement.methods, agreement.spearman, agreement.kendall) == (3, 1.0, pytest.approx(1.0))
    assert result.differs == ("everything is made up",)
    assert list(result.assumed) == ["fid"]  # of the protocol's columns, the one that the table uses
    assert "clean-fid" in result.assumed["fid"]["extractor inception-clean"]
    row = next(r for r in result.orders if (r.order.better, r.order.worse) == ("One", "Two"))
    assert row.gain == pytest.approx(0.105)
    assert row.interval is not None
    assert row.interval[0] < 0.105 < row.interval[1]


def test_the_same_claims_are_refuted_by_swapped_methods(table: Any, tmp_path: Path) -> None:
    swapped = {"one": AS_CLAIMED["three"], "two": AS_CLAIMED["two"], "three": AS_CLAIMED["one"]}
    result = reproduce(table, suite(), store(tmp_path, swapped))
    found = verdicts(result)
    assert {found[k] for k in ("One", "Three", "One>Two", "One>Three", "Two>Three")} == {REFUTED}
    assert found["Two"] == REPRODUCED
    assert next(a.spearman for a in result.agreement if a.metric == "GSD") == -1.0


def test_differences_that_hold_zero_cannot_be_decided(table: Any, tmp_path: Path) -> None:
    noisy = {
        "one": [0.5 + 0.3 * (-1) ** i for i in range(12)],
        "two": [0.5 - 0.3 * (-1) ** i for i in range(12)],
        "three": AS_CLAIMED["three"],
    }
    result = reproduce(table, suite(), store(tmp_path, noisy))
    (row,) = [r for r in result.orders if (r.order.better, r.order.worse) == ("One", "Two") and r.column == "gsd"]
    assert row.verdict.verdict == OPEN
    assert "no difference shown" in row.verdict.why


def test_pairing_decides_what_two_separate_means_could_not(table: Any, tmp_path: Path) -> None:
    hard = [0.5 * i for i in range(12)]  # prompts differ far more than methods
    paired = {"one": hard, "two": [h + 0.05 for h in hard], "three": [h + 0.4 for h in hard]}
    result = reproduce(table, suite(), store(tmp_path, paired))
    one, two = (next(r.measured for r in result.values if r.claim.method == m) for m in ("One", "Two"))
    assert one.interval[1] > two.interval[0]  # apart from each other the means could be anything
    assert verdicts(result)["One>Two"] == REPRODUCED


def test_every_method_and_metric_of_the_paper_stays_with_its_reason(
    table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.analysis.readings.make_plan", lambda *_: Namespace(blocked=()))
    some = {"one": AS_CLAIMED["one"], "two": AS_CLAIMED["two"]}
    result = reproduce(table, suite(), store(tmp_path, some))
    why = {(r.claim.method, r.claim.metric): r.verdict.why for r in result.values}
    assert why["Ghost", "GSD"] == "not in this project"
    assert why["One", "COH"] == "no column of this project stands for this metric"
    assert why["One", "FID"] == "no scores in this column yet: `scrollbench run --suite tiny`"
    assert len(result.values) == 8
    assert result.counts("values") == {REPRODUCED: 2, REFUTED: 0, OPEN: 6}


@pytest.mark.parametrize(
    ("low", "high", "n", "verdict"),
    [(2.0, 9.0, 12, REPRODUCED), (-9.0, -2.0, 12, REFUTED), (-2.0, 9.0, 12, OPEN), (2.0, 9.0, 5, OPEN)],
)
def test_orders_of_set_metrics_are_decided_by_the_comparison_of_sets(
    table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: float, high: float, n: int, verdict: str
) -> None:
    asked = []

    def compare(_: Any, __: Any, a: str, b: str, metrics: list[str]) -> Any:
        asked.append((a, b, metrics))
        p = 0.001 if low * high > 0 else 0.4
        gain = Namespace(value=(low + high) / 2, low=low, high=high, n=n, p=p)
        return Namespace(comparisons=[Namespace(part="4to1", gain=gain, adjusted=min(1, 6 * p), note="")])

    monkeypatch.setattr("bench.analysis.reproduce.compare", compare)
    result = reproduce(table, suite(), store(tmp_path, AS_CLAIMED, fid=True))
    (row,) = [r for r in result.orders if r.order.metric == "FID"]
    assert row.verdict.verdict == verdict
    assert asked == [("two", "one", ["fid"])]  # gains are those of the second, the one claimed to be better
    why = {r.claim.method: r.verdict.why for r in result.values if r.claim.metric == "FID"}
    assert why["One"] == "one number over all pictures, without an interval"


def test_a_comparison_that_cannot_be_made_gives_its_reason(
    table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(*_: Any) -> Any:
        raise StoreError("features for fid are not here")

    monkeypatch.setattr("bench.analysis.reproduce.compare", compare)
    result = reproduce(table, suite(), store(tmp_path, AS_CLAIMED, fid=True))
    (row,) = [r for r in result.orders if r.order.metric == "FID"]
    assert (row.verdict.verdict, row.verdict.why) == (OPEN, "features for fid are not here")


def test_a_method_without_pictures_names_missing_weights_or_the_command(
    table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = [Namespace(label="three", reason="fetch it")]
    monkeypatch.setattr("bench.analysis.readings.make_plan", lambda *_: Namespace(blocked=blocked))
    few = {"one": AS_CLAIMED["one"]}
    why = {r.claim.method: r.verdict.why for r in reproduce(table, suite(), store(tmp_path, few)).values[:4]}
    assert why["Three"] == "weights missing: fetch it"
    assert why["Two"] == "no pictures yet: `scrollbench run --suite tiny`"


def test_few_prompts_decide_nothing(table: Any, tmp_path: Path) -> None:
    five = {label: values[:5] for label, values in AS_CLAIMED.items()}
    result = reproduce(table, suite(), store(tmp_path, five))
    assert set(verdicts(result).values()) == {OPEN}
    assert any("sample too small: 5 prompts, 6 at least" in r.verdict.why for r in result.values)
    decided = {}
    for count in (7, 8):  # six tests: seven prompts of one sign are 6 x 2 / 2^7, eight half of that
        some = {label: values[:count] for label, values in AS_CLAIMED.items()}
        decided[count] = verdicts(reproduce(table, suite(), store(tmp_path, some)))["One>Three"]
    assert decided == {7: OPEN, 8: REPRODUCED}


def test_the_miniature_decides_orders_only_and_says_so(table: Any, tmp_path: Path) -> None:
    result = reproduce(table, suite("miniature"), store(tmp_path, AS_CLAIMED, tier="miniature"))
    found = verdicts(result)
    assert found["One"] == OPEN
    assert found["One>Two"] == REPRODUCED
    row = next(r for r in result.orders if r.verdict.verdict == REPRODUCED)
    assert row.verdict.why.endswith("on the miniature")


def test_numbers_of_another_tier_or_another_suite_are_never_taken(
    table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.analysis.readings.make_plan", lambda *_: Namespace(blocked=()))
    miniature = store(tmp_path, AS_CLAIMED, tier="miniature")
    for other in (suite("full"), suite("miniature", "f" * 24)):
        result = reproduce(table, other, miniature)
        assert not any(r.measured for r in result.values)
    assert any(r.measured for r in reproduce(table, suite("miniature"), miniature).values)


def test_an_empty_store_leaves_everything_open(table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.analysis.readings.make_plan", lambda *_: Namespace(blocked=()))
    result = reproduce(table, suite(), Store(tmp_path / "nothing"))
    assert result.counts("orders")[OPEN] == len(result.orders) > 0
    assert result.counts("values")[OPEN] == 8


def test_a_table_of_two_canvases_is_not_held_against_one_suite(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="prints 3 blocks"):
        reproduce(find_table("panollama:fig4"), suite(), Store(tmp_path))


CLAIM = Claim("p", "t", "One", "FID", "10.0", None, "lower", "", "", "", "", "paper", "here")


@pytest.mark.parametrize(
    ("measured", "verdict", "why"),
    [
        (Measured(10.2, (9.9, 10.5), 20, 0), REPRODUCED, "holds it"),
        (Measured(10.2, (10.04, 10.5), 20, 0), REPRODUCED, "holds it"),  # 10.04 is printed 10.0
        (Measured(10.2, (10.06, 10.5), 20, 0), REFUTED, "above"),
        (Measured(9.2, (9.0, 9.4), 20, 0), REFUTED, "below"),
        (Measured(10.0, (5.0, 15.0), 20, 0), OPEN, "as wide as the paper's whole column"),
        (Measured(10.0, (9.9, 10.1), 20, 3), OPEN, "partial: 3"),
        (Measured(10.0, None, None, 0), OPEN, "without an interval"),
        (Measured(10.0, None, 4, 0), OPEN, "4 prompts"),
    ],
)
def test_a_value_is_held_against_the_interval(measured: Measured, verdict: str, why: str) -> None:
    found = value_verdict(CLAIM, measured, 8.0, "full")
    assert found.verdict == verdict
    assert why in found.why
    assert value_verdict(CLAIM, measured, 8.0, "full", "other unit").why == "other unit"


def test_orders_follow_the_sign_of_what_the_corrected_test_shows() -> None:
    assert order_verdict(0.1, 0.04, 20, "full").verdict == REPRODUCED
    assert order_verdict(-0.1, 0.04, 20, "full").verdict == REFUTED
    assert order_verdict(0.1, 0.06, 20, "full").verdict == OPEN
    assert order_verdict(None, None, 3, "full").verdict == OPEN


def test_intervals_need_six_prompts() -> None:
    same, spread, few = intervals([[2.0] * 8, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 2.0]])
    assert same is None  # nothing differs: what another prompt would give is not told
    assert spread is not None
    assert 1.0 < spread[0] < 3.5 < spread[1] < 6.0
    assert few is None


def call(*args: str) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, ["reproduce", *map(str, args)])


def test_without_arguments_papers_and_tables_are_listed() -> None:
    rows = json.loads(call("--json").stdout)
    assert [r["table"] for r in rows] == list(tables())
    assert next(r for r in rows if r["table"] == "drspo:table1")["suite"] == "drspo-table1"


def test_published_only_prints_the_table_and_its_checks() -> None:
    said = call("drspo:table1", "--published-only").stdout
    assert "MAD               6.032 (1)          0.195 (7)   0.105 (1)            0.100 (6)      0.317 (2)" in said
    assert "average rank, PixArt: printed 3.2, by the values 3.0" in said
    assert "all 20 printed ranks follow from the printed values" in call("drspo:table2", "--published-only").stdout
    data = json.loads(call("drspo:table2", "--published-only", "--json").stdout)
    assert data["rank_differences"] == []
    assert data["blocks"][0]["claims"][0]["value"] == "5.726"


def test_a_table_without_a_suite_is_printed_and_says_so() -> None:
    result = call("cdgs:table4")
    assert result.exit_code == 0
    assert "no suite of this project follows cdgs:table4" in result.stderr


def test_the_command_shows_claimed_beside_measured(table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled = store(tmp_path, AS_CLAIMED, tier="miniature")
    monkeypatch.setattr("bench.analysis.claims.find_table", lambda ref: table)
    monkeypatch.setattr("bench.suites.load.load_suite", lambda ref, overrides: suite(overrides["tier"]))
    said = call("tiny:table1", "--tier", "miniature", "--store", str(filled.root)).stdout
    assert "never stand for the paper's" in said
    assert "reproduced: One better than Two on GSD as gsd: better over 12 prompts on the miniature, by 0.105" in said
    assert re.search(r"Ghost +0\.10", said)
    assert "order of 3 methods as gsd: rank correlation 1.00 (Spearman), 1.00 (Kendall)" in said
    assert "everything is made up" in said
    data = json.loads(call("tiny:table1", "--tier", "miniature", "--store", str(filled.root), "--json").stdout)
    assert data["tier"] == "miniature"
    assert data["counts"]["orders"]["reproduced"] == 3
    assert cli_claims.OPEN == OPEN
