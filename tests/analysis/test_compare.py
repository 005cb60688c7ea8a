"""Comparisons: paired by prompt on what both have, tested together, and honest about what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.analysis.compare import Report, compare, plain, rows
from bench.analysis.samplers import labelled, pinned
from bench.cli.app import main
from bench.errors import IncompleteError, StoreError, UsageError
from bench.metrics.distribution import kernel_distance
from bench.pipeline.plan import sampler_digest
from bench.store import Store
from bench.store.index import build, query
from bench.suites.load import load_suite
from tests.support import tiny
from tests.support.gating import SUITE, made, run, suite_in


def one(report: Report, name: str):
    return next(c for c in report.comparisons if c.measure.name == name)


def test_gains_are_paired_by_prompt_with_seeds_averaged_inside(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain", "dark")
    report = compare(store, suite, "plain", "plugins.py@dark")
    c = one(report, "brightness")
    assert c.gain is not None
    assert c.gain.n == 12  # prompts, though there are 24 pictures
    assert c.a - c.b == pytest.approx(51, abs=1)
    assert c.gain.value == pytest.approx(c.b - c.a)
    assert c.gain.low <= c.gain.value <= c.gain.high < 0  # all lose the same 51: how much others might, is bounded
    assert (c.said, c.adjusted) == ("worse", pytest.approx(2 * c.gain.p))
    assert c.gain.p == pytest.approx(2 / 2**12, rel=0.5)  # two of the ways to swap 12 prompts are as extreme
    board = dict(query(store, "select method, value from leaderboard where metric = 'brightness'")[1])
    assert (c.a, c.b) == pytest.approx((board["plain"], board["plugins.py@dark"]))
    assert one(report, "seam").said == "not shown"


def test_differences_without_pairing_would_drown(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain", "dark", set=["dark.by=0.005"])
    c = one(compare(store, suite, "plain", "plugins.py@dark[by=0.005]"), "brightness")
    assert c.gain is not None
    assert c.said == "worse"
    assert c.gain.high < 0
    among = np.std([p.a for p in c.losses], ddof=1)
    assert abs(c.gain.value) < 2 * among * np.sqrt(2 / 12)  # the same numbers unpaired: within two standard errors


def test_the_sign_says_better_whatever_the_direction(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain", "striped")
    report = compare(store, suite, "plain", "plugins.py@striped")
    assert (one(report, "seam").said, one(report, "brightness").said) == ("worse", "better")
    back = compare(store, suite, "plugins.py@striped", "plain")
    assert one(back, "seam").said == "better"
    assert one(back, "seam").gain.value == -one(report, "seam").gain.value  # type: ignore[union-attr]
    level = one(compare(store, suite, "plain", "plugins.py@striped", ["mean-level"]), "mean-level")
    assert level.said == "differs"


def test_p_values_are_adjusted_for_all_that_is_compared(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain", "noisy")
    report = compare(store, suite, "plain", "plugins.py@noisy")
    raw = [c.gain.p for c in report.comparisons if c.gain]
    assert min(c.adjusted for c in report.comparisons if c.adjusted is not None) == pytest.approx(min(1, 2 * min(raw)))


def test_only_prompts_finished_on_both_sides_count_and_the_rest_is_told(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain", "fails")
    report = compare(store, suite, "plain", "plugins.py@fails")
    c = one(report, "brightness")
    assert c.gain is not None
    assert (c.gain.n, c.unpaired, c.missing) == (11, 1, (0, 2))
    assert c.gain.value == 0
    assert (report.cells, report.made, report.equal) == (24, (24, 22), 22)


def test_the_worst_prompts_come_first_with_their_pictures(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain", "noisy")
    c = one(compare(store, suite, "plain", "plugins.py@noisy"), "brightness")
    gains = [p.gain for p in c.losses]
    assert gains == sorted(gains)
    assert gains[0] == pytest.approx(c.losses[0].b - c.losses[0].a)
    assert Path(c.losses[0].picture_b).is_file()
    assert c.losses[0].picture_b != c.losses[0].picture_a
    rgb = np.asarray(Image.open(c.losses[0].picture_b))
    assert abs(rgb.mean() - c.losses[0].b) < 10


def test_a_sampler_is_found_by_digest_after_its_code_changed(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain", "dark")
    before = labelled(store, suite, "plain")
    assert sampler_digest(before.sampler) == before.digest
    source = (tmp_path / "plugins.py").read_text()
    drawn = "return field(prompt, canvas, noise)\n"
    (tmp_path / "plugins.py").write_text(source.replace(drawn, drawn.replace("field", "0.9 * field"), 1))
    again = load_suite(tmp_path / "gated.toml")
    run(again, store)
    after = labelled(store, again, "plain")
    assert after.digest != before.digest
    old = pinned(store, again, "plain", before.digest)
    assert {k: c.image_id for k, c in old.cells.items()} == {k: c.image_id for k, c in before.cells.items()}
    c = one(compare(store, again, old, after), "brightness")
    assert c.said == "worse"
    assert c.gain is not None
    assert c.gain.value == pytest.approx(-12.75, abs=1)
    assert not pinned(store, again, "plain", "0" * 24).cells


def test_unknown_names_and_an_absent_leaderboard_are_answered_with_what_to_do(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain")
    with pytest.raises(UsageError, match="did you mean 'plain'"):
        compare(store, suite, "plain", "plian")
    with pytest.raises(UsageError, match="did you mean 'brightness'"):
        compare(store, suite, "plain", "plain", ["brightnes"])
    with pytest.raises(UsageError, match="--speed"):
        compare(store, suite, "plain", "plain", ["seconds"])
    with pytest.raises(StoreError, match="scrollbench"):
        compare(Store(tmp_path / "other"), suite, "plain", "plain")


def test_pictures_of_two_versions_under_one_label_are_not_averaged(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain")
    member = next(r for r in store.records() if r["kind"] == "member")
    image = next(r for r in store.records() if r["kind"] == "image" and r["recipe_id"] == member["recipe_id"])
    later = {"recipe_id": "f" * 24}
    store.append(store.ledger().replacing({**member, **later, "sampler": "another"}))
    store.append({**image, **later, "recipe": {**image["recipe"], "method_source": "another"}})
    build(store)
    with pytest.raises(IncompleteError, match="2 versions"):
        labelled(store, suite, "plain")


KID = """
[[metrics]]
ref = "kid"
view = "tiles"
extractor = "inception@{net}"
reference = "real"
[[metrics]]
ref = "fid"
view = "tiles"
extractor = "inception@{net}"
reference = "real"
[references.real]
kind = "folder"
path = "real"
"""


def test_distances_between_sets_come_with_jackknife_and_swap_test(tmp_path: Path) -> None:
    net = tiny.cnn(tmp_path / "cnn")
    (tmp_path / "real").mkdir()
    for i, rgb in enumerate(tiny.pictures(10, 16, 8)):
        Image.fromarray(rgb).save(tmp_path / "real" / f"{i}.png")
    suite, store = made(tmp_path, "plain", "noisy", "dark", extra=KID.format(net=net), seeds=[0])
    same = compare(store, suite, "plain", "plain", ["kid"])
    worse = compare(store, suite, "plain", "plugins.py@dark")
    board = {row[:2]: row[2] for row in query(store, "select method, metric, value from leaderboard")[1]}
    for name in ("kid", "fid"):
        c = one(worse, name)
        assert c.gain is not None
        assert (c.a, c.b) == pytest.approx((board["plain", name], board["plugins.py@dark", name]))
        assert c.gain.value == pytest.approx(c.a - c.b)  # lower is better
        assert c.gain.low < c.gain.value < c.gain.high
        assert c.gain.n == 12
    assert one(same, "kid").gain.value == 0  # type: ignore[union-attr]
    assert one(same, "kid").said == "not shown"
    assert one(worse, "kid").gain.p <= 0.01  # type: ignore[union-attr]
    subsets = one(compare(store, suite, "plain", "plugins.py@dark", ["kid-subset-mean"]), "kid-subset-mean")
    assert (subsets.gain, subsets.note) == (None, "not computed with the knobs of this suite")
    for part in (store.root / "features").rglob("*.parquet"):
        part.unlink()
    gone = one(compare(store, suite, "plain", "plugins.py@dark", ["kid"]), "kid")
    assert gone.gain is None
    assert "scrollbench score" in gone.note
    assert kernel_distance(np.eye(4), np.eye(4)) != 0  # the number itself is not what makes "same" 0


def test_the_table_and_the_json_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, store = made(tmp_path, "plain", "dark")
    report = compare(store, suite, "plain", "plugins.py@dark")
    said = plain(report)
    assert [r["gain"] for r in rows(report)] == [c["gain"]["value"] for c in said["comparisons"]]
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    args = ["compare", "plain", "plugins.py@dark", "--suite", str(tmp_path / "gated.toml"), "--store", str(store.root)]
    spoken = CliRunner().invoke(main, args)
    assert spoken.exit_code == 0
    assert "worse" in spoken.stdout
    assert "brightness worst on p" in spoken.stdout
    parsed = json.loads(CliRunner().invoke(main, [*args, "--json", "--all"]).stdout)
    assert {c["metric"] for c in parsed["comparisons"]} == {"brightness", "seam", "mean-level", "nfe", "peak_bytes"}


def test_a_suite_file_with_a_negative_margin_or_unknown_gate_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gate\.margins"):
        suite_in(tmp_path, "kid = -1\n")
    with pytest.raises(UsageError, match="did you mean 'margins'"):
        suite_in(tmp_path, "[gate]\nmargin = 1\n", text=SUITE.partition("[gate.margins]")[0])
