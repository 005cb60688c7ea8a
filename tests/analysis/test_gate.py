"""Gates: a harmless candidate passes, planted defects are caught and located, six outcomes have six exit codes."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from bench import toml
from bench.analysis.gate import GateResult, gate, margins_of, prepare
from bench.analysis.pin import find_pin, write_pin
from bench.analysis.samplers import labelled
from bench.analysis.speed import judge
from bench.cli.app import main
from bench.errors import UsageError
from bench.pipeline.plan import sampler_digest
from bench.report import gate as report_gate
from bench.stats.intervals import bounds, unseen
from bench.store import Store
from bench.store.index import build
from bench.suites.load import load_suite
from tests.support.gating import SUITE, made, run, suite_in


def verdict(folder: Path, candidate: str, **overrides: Any) -> GateResult:
    suite, store = made(folder, "plain", candidate, **overrides)
    (label,) = [m.label for m in suite.methods if m.label != "plain"]
    return gate(store, suite, "plain", label, margins_of(suite))


# -- the test itself


@pytest.mark.parametrize(("name", "n"), [("normal", 24), ("normal", 60), ("heavy", 24), ("skewed up", 24)])
def test_a_candidate_at_the_margin_passes_at_most_one_time_in_twenty(name: str, n: int) -> None:
    """2,000 gates of two numbers, one of them exactly the margin worse: at most 5 % pass."""
    rng = np.random.default_rng(n)
    draw = {
        "normal": lambda: rng.standard_normal((2000, n)),
        "heavy": lambda: rng.lognormal(0, 1, (2000, n)) - rng.lognormal(0, 1, (2000, n)),
        "skewed up": lambda: rng.lognormal(0, 0.5, (2000, n)) - np.exp(0.125),
    }[name]
    margin = 0.5
    worse, fine = draw() - margin, draw()
    passed = (bounds(worse, 0.90, draws=2000)[0] >= -margin) & (bounds(fine, 0.90, draws=2000)[0] >= -margin)
    assert passed.mean() <= 0.05
    regressed = bounds(worse - 5 * margin, 0.90, draws=2000)[1] < -margin
    assert regressed.mean() > 0.80  # and what is far beyond it is called so


def test_not_significant_is_not_a_pass() -> None:
    """The rule of other gates, "no significant loss", would let most candidates at the margin through."""
    x = np.random.default_rng(1).standard_normal((2000, 24)) - 0.3
    low, high = bounds(x, 0.90, draws=2000)
    assert (high >= 0).mean() > 0.3
    assert (low >= -0.3).mean() <= 0.05


def test_a_harmless_candidate_is_rarely_called_regressed() -> None:
    x = np.random.default_rng(2).standard_normal((2000, 24))
    assert (bounds(x, 0.90, draws=2000)[1] < -0.3).mean() < 0.01


# -- verdicts on pictures


def test_a_refactoring_that_changes_nothing_passes_and_is_recognised(tmp_path: Path) -> None:
    result = verdict(tmp_path, "refactored")
    assert (result.verdict, result.exit_code) == ("pass", 0)
    assert result.report.a.digest != result.report.b.digest
    assert any("equal, pixel by pixel" in note for note in result.notes)


def test_another_draw_of_the_same_quality_passes(tmp_path: Path) -> None:
    result = verdict(tmp_path, "noisy", set=["noisy.spread=0.005"])
    assert result.verdict == "pass"
    assert result.report.equal < 3
    assert not any("equal" in note for note in result.notes)


def test_a_darker_candidate_regresses_with_amount_margin_and_worst_pictures(tmp_path: Path) -> None:
    result = verdict(tmp_path, "dark")
    assert (result.verdict, result.exit_code) == ("regressed", 1)
    found = {c.name: c for c in result.checks}
    assert found["brightness"].verdict == "regressed"
    low, high = found["brightness"].low, found["brightness"].high
    assert low is not None
    assert high is not None
    assert low <= -50.9 < high < -4  # every prompt loses 51; others might lose less, but not win
    assert found["brightness"].message.startswith("brightness lost 5")
    assert "the margin is 4" in found["brightness"].message
    assert len(found["brightness"].places) == 3
    assert all(Path(p.picture).is_file() and p.gain < -45 for p in found["brightness"].places)


def test_a_seam_is_located_along_the_panorama(tmp_path: Path) -> None:
    result = verdict(tmp_path, "striped")
    (check,) = [c for c in result.checks if c.verdict == "regressed"]
    assert check.name == "seam"
    assert {(p.view, p.views) for p in check.places} == {(3, 4)}
    assert any("most at view 4 of 4" in line for line in report_gate.failures(result))


def test_a_lost_prompt_is_incomplete_whatever_the_others_say(tmp_path: Path) -> None:
    result = verdict(tmp_path, "fails")
    assert (result.verdict, result.exit_code) == ("incomplete", 5)
    assert "2 of the candidate have no number" in result.checks[0].message


def test_too_few_prompts_are_inconclusive_and_how_many_would_do_is_said(tmp_path: Path) -> None:
    result = verdict(tmp_path, "noisy", prompts=3, set=["noisy.spread=0.06"])
    assert (result.verdict, result.exit_code) == ("inconclusive", 4)
    assert any("prompts would decide" in c.message for c in result.checks)


def test_a_number_that_only_one_side_has_decides_nothing(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain", "noisy", set=["noisy.spread=0.005"])
    label = "plugins.py@noisy[spread=0.005]"
    assert gate(store, suite, "plain", label, {"brightness": 4}).verdict == "pass"
    mine = {c.image_id for k, c in labelled(store, suite, label).cells.items() if k[1] == "p04"}
    for score in store.records():
        if score["kind"] == "score" and score["metric"] == "brightness" and score["image_id"] in mine:
            values = [[name, index, None] for name, index, _ in score["values"]]
            store.append(store.ledger().replacing({**score, "values": values}))
    build(store)
    (check,) = gate(store, suite, "plain", label, {"brightness": 4}).checks
    assert check.verdict == "inconclusive"
    assert "defined on one side only for 1 prompts" in check.message


def test_a_number_that_never_differs_passes_only_where_the_rule_of_three_does(tmp_path: Path) -> None:
    """No seam differs on twelve prompts: 22 % of others may, by up to 255 levels, 56 on average."""
    suite, store = made(tmp_path, "plain", "dark")
    found = {m: gate(store, suite, "plain", "plugins.py@dark", {"seam": m}).checks[0] for m in (60.0, 50.0)}
    assert {m: c.verdict for m, c in found.items()} == {60.0: "pass", 50.0: "inconclusive"}
    assert found[50.0].low == pytest.approx(-255 * unseen(12), rel=0.05)
    assert "about 16 prompts would decide" in found[50.0].message
    assert gate(store, suite, "plain", "plain", {"seam": 0.0}).verdict == "pass"  # the same pictures: no chance in it


def test_pictures_that_show_nothing_fail_by_themselves(tmp_path: Path) -> None:
    """Two of twelve prompts are empty; the margin is too wide to see it."""
    suite, store = made(tmp_path, "plain", "gaps")
    wide, gaps = {"brightness": 250.0}, "plugins.py@gaps"
    result = gate(store, suite, "plain", gaps, wide)
    assert [c.verdict for c in result.checks] == ["pass"]
    assert result.empty is not None
    assert (result.empty.baseline, result.empty.candidate, result.verdict) == (0, 4, "regressed")
    assert "4 of 24 pictures show nothing" in "\n".join(report_gate.failures(result))
    assert {(prompt, why) for _, prompt, why, _ in result.empty.worst} == {("p01", "black"), ("p02", "flat")}
    assert gate(store, suite, gaps, "plain", wide).verdict == "pass"  # negative control: fewer than the baseline's
    again = gate(store, suite, gaps, gaps, wide)
    assert again.verdict == "pass"  # and as many
    assert any("12 prompts: what befalls up to 22% of prompts may not show" in note for note in again.notes)


def test_margins_are_the_suites_and_their_absence_names_the_command(tmp_path: Path) -> None:
    suite = suite_in(tmp_path, text=SUITE.partition("[gate.margins]")[0])
    with pytest.raises(UsageError, match=r"scrollbench calibrate --suite \S*gated"):
        margins_of(suite)
    (tmp_path / "margins.toml").write_text("[gate.margins]\nbrightness = 2\n")
    assert margins_of(suite, tmp_path / "margins.toml") == {"brightness": 2.0}
    for wrong in ("-2", "nan", "inf", "true", '"2"', "[2]", "1e999", "1979-05-27"):
        (tmp_path / "margins.toml").write_text(f"[gate.margins]\nbrightness = {wrong}\n")
        with pytest.raises(UsageError, match=r"margins\.toml: gate\.margins\.brightness"):
            margins_of(suite, tmp_path / "margins.toml")
    for text, key in (("gate = 3", "gate"), ("[gate]\nmargins = [1]", r"gate\.margins")):
        (tmp_path / "margins.toml").write_text(text)
        with pytest.raises(UsageError, match=rf"margins\.toml: {key} must be a table"):
            margins_of(suite, tmp_path / "margins.toml")


def test_a_number_without_better_and_worse_may_move_neither_way(tmp_path: Path) -> None:
    """Brighter by 51 levels is a gain in brightness and a change of the mean level; 5 % stay within either margin."""
    suite, store = made(tmp_path, "plain", "dark", "noisy", set=["dark.by=-0.2", "noisy.spread=0.005"])
    lighter, noisy, margins = "plugins.py@dark[by=-0.2]", "plugins.py@noisy[spread=0.005]", {"mean-level": 4.0}
    (up,), (down,), (same,) = (
        gate(store, suite, a, b, margins).checks for a, b in (("plain", lighter), (lighter, "plain"), ("plain", noisy))
    )
    assert [c.verdict for c in (up, down, same)] == ["regressed", "regressed", "pass"]
    assert up.message.startswith("mean-level changed by +5")
    assert down.message.startswith("mean-level changed by -5")
    assert all(p.gain > 45 for p in up.places)
    assert all(p.gain < -45 for p in down.places)
    assert gate(store, suite, "plain", lighter, {"brightness": 4.0}).verdict == "pass"  # the control: there is better
    assert gate(store, suite, "plain", noisy, {"mean-level": 0.01}).verdict == "inconclusive"


def test_a_margin_for_what_is_not_measured_is_refused(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain", "dark")
    with pytest.raises(UsageError, match="did you mean 'brightness'"):
        gate(store, suite, "plain", "plugins.py@dark", {"brightnes": 1})


# -- baselines by digest


def test_a_pinned_baseline_stays_when_the_code_under_its_name_changes(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain")
    file = tmp_path / "gates" / "plain.toml"
    change = write_pin(file, suite, labelled(store, suite, "plain"), margins_of(suite))
    assert change.count("\n+") > 5
    assert write_pin(file, suite, labelled(store, suite, "plain"), margins_of(suite)) == ""
    pin = find_pin(str(file))
    assert pin is not None
    assert pin.digest == tomllib.loads(file.read_text())["baseline"]["digest"]
    assert gate(store, suite, pin, "plain", margins_of(suite)).verdict == "pass"
    source = (tmp_path / "plugins.py").read_text()
    drawn = "return field(prompt, canvas, noise)\n"
    (tmp_path / "plugins.py").write_text(source.replace(drawn, drawn.replace("field", "0.8 * field"), 1))
    again = load_suite(tmp_path / "gated.toml")
    run(again, store)
    assert gate(store, again, pin, "plain", margins_of(again)).verdict == "regressed"
    assert gate(store, again, "plain", "plain", margins_of(again)).verdict == "pass"  # by name it moved along
    change = write_pin(file, again, labelled(store, again, "plain"), {"brightness": 9.0})
    lines = [line for line in change.splitlines() if line[0] in "+-" and line[:3] not in ("+++", "---")]
    assert {line[1:].split(" = ")[0] for line in lines} == {"brightness", "seam", "digest", "method_source"}


def test_a_pinned_file_that_was_edited_or_is_of_another_question_is_refused(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain")
    file = tmp_path / "plain.toml"
    write_pin(file, suite, labelled(store, suite, "plain"), margins_of(suite))
    good = file.read_text()
    other = load_suite(tmp_path / "gated.toml", {"limit": 4})
    with pytest.raises(UsageError, match="other prompts, seeds or backbone"):
        gate(store, other, find_pin(str(file)), "plain", margins_of(suite))  # type: ignore[arg-type]
    file.write_text(good.replace('method = "plain"', 'method = "plan"'))
    with pytest.raises(UsageError, match="not that of the sampler"):
        find_pin(str(file))
    file.write_text("nothing = 1\n")
    with pytest.raises(UsageError, match="not a pinned baseline"):
        find_pin(str(file))
    with pytest.raises(UsageError, match="no baseline"):
        find_pin(str(tmp_path / "gone.toml"))
    assert find_pin("a-name-nobody-pinned") is None
    file.write_text(good)
    loose = gate(store, suite, find_pin(str(file)), "plain", {"brightness": 100.0})  # type: ignore[arg-type]
    assert any("margins are not those" in note for note in loose.notes)


def test_a_pinned_baseline_is_made_again_while_its_code_is_here_and_told_missing_when_not(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain")
    file = tmp_path / "plain.toml"
    write_pin(file, suite, labelled(store, suite, "plain"), margins_of(suite))
    pin = find_pin(str(file))
    assert pin is not None
    fresh, candidate = Store(tmp_path / "fresh"), f"{tmp_path / 'plugins.py'}@refactored"
    prepare(fresh, suite, pin, candidate)
    assert gate(fresh, suite, pin, "plugins.py@refactored", margins_of(suite)).verdict == "pass"
    edited = (tmp_path / "plugins.py").read_text().replace("    return field(", "    return 1.0 * field(", 1)
    (tmp_path / "plugins.py").write_text(edited)
    again, empty = load_suite(tmp_path / "gated.toml"), Store(tmp_path / "empty")
    prepare(empty, again, pin, candidate)
    assert gate(empty, again, pin, "plugins.py@refactored", margins_of(again)).verdict == "incomplete"


def test_the_digest_of_a_sampler_survives_its_file(tmp_path: Path) -> None:
    params = {"x": None, "y": 20, "z": 2.5, "on": True, "l": [1, 2]}
    fields = {"method": 'a "b" \n ü', "params": params, "weights": None}
    back = tomllib.loads(toml.written({"baseline": fields}))["baseline"]
    assert sampler_digest(back) == sampler_digest(fields)
    assert sampler_digest({**back, "params": {**params, "y": 21}}) != sampler_digest(fields)


# -- speed


def test_speed_is_judged_by_paired_ratios(tmp_path: Path) -> None:
    rng, prompts = np.random.default_rng(3), [f"p{i}" for i in range(12)]
    hard = rng.lognormal(0, 1, 12)  # prompts that take long take long for both

    def times(factor: float, jitter: float = 0.02) -> dict[tuple[str, str], float]:
        return {
            (label, p): float(h * (factor if label == "b" else 1) * rng.lognormal(0, jitter))
            for label in "ab" for p, h in zip(prompts, hard)
        }  # fmt: skip

    same, slower = judge(times(1.0), "a", "b", prompts, 1.1, "m"), judge(times(1.3), "a", "b", prompts, 1.1, "m")
    assert (same.verdict, slower.verdict) == ("pass", "regressed")
    assert slower.ratio == pytest.approx(1.3, rel=0.05)
    assert "and only there" in slower.message
    assert judge(times(1.1, 0.2), "a", "b", prompts, 1.1, "m").verdict == "inconclusive"


# -- the command


def call(folder: Path, *words: str) -> Any:
    place = ["--suite", str(folder / "gated.toml"), "--store", str(folder / "store")]
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, [*words, *place])


def test_the_command_draws_a_candidate_from_a_file_and_judges_it(tmp_path: Path) -> None:
    suite_in(tmp_path)
    candidate = f"{tmp_path / 'plugins.py'}@dark"
    files = ["--junit", str(tmp_path / "gate.xml"), "--markdown", str(tmp_path / "gate.md")]
    said = call(tmp_path, "gate", "--baseline", "plain", "--candidate", candidate, "--run", *files)
    assert said.exit_code == 1, said.output
    assert "regressed: brightness lost" in said.stdout
    assert said.stdout.splitlines()[-1].startswith("regressed: plugins.py@dark against plain")
    root = ElementTree.parse(tmp_path / "gate.xml").getroot()
    # Of so few prompts one number stays undecided.
    assert {k: root.get(k) for k in ("tests", "failures", "errors")} == {"tests": "3", "failures": "1", "errors": "1"}
    failure = root.find(".//testcase[@name='brightness']/failure")
    assert failure is not None
    assert ".png" in str(failure.text)
    summary = (tmp_path / "gate.md").read_text()
    assert summary.startswith("## ❌ regressed: plugins.py@dark against plain")
    assert summary.count("\n|") == 5
    data = json.loads(call(tmp_path, "gate", "--baseline", "plain", "--candidate", candidate, "--json").stdout)
    assert (data["verdict"], data["exit_code"]) == ("regressed", 1)
    assert data["checks"][0]["worst"][0]["picture"].endswith(".png")


def test_knobs_set_on_the_command_belong_to_their_method_only(tmp_path: Path) -> None:
    suite_in(tmp_path)
    words = ["gate", "--baseline", "plain", "--candidate", f"{tmp_path / 'plugins.py'}@noisy", "--run"]
    said = call(tmp_path, *words, "--set", "noisy.spread=0.005")
    assert said.exit_code == 0, said.output
    assert said.stdout.splitlines()[-1].startswith("pass: plugins.py@noisy[spread=0.005] against plain on")


def test_exit_codes_tell_the_outcomes_apart(tmp_path: Path) -> None:
    made(tmp_path, "plain", "refactored", "fails")
    file, codes = tmp_path / "plugins.py", {}
    for name in ("refactored", "fails"):
        codes[name] = call(tmp_path, "gate", "--baseline", "plain", "--candidate", f"{file}@{name}").exit_code
    codes["unknown"] = call(tmp_path, "gate", "--baseline", "plain", "--candidate", "refactord").exit_code
    codes["failing"] = call(tmp_path, "gate", "--baseline", "plain", "--candidate", f"{file}@fails", "--run").exit_code
    assert codes == {"refactored": 0, "fails": 5, "unknown": 2, "failing": 5}


def test_margins_may_come_from_the_baselines_own_seeds(tmp_path: Path) -> None:
    _, store = made(tmp_path, "plain", "refactored", "dark", text=SUITE.partition("[gate.margins]")[0])
    before = len(store.records())
    file = tmp_path / "plugins.py"

    def judged(name: str, *words: str) -> Any:
        return call(tmp_path, "gate", "--baseline", "plain", "--candidate", f"{file}@{name}", *words)

    refused = judged("dark")
    assert (refused.exit_code, "--own-seeds" in refused.stderr) == (2, True)
    assert [judged(name, "--own-seeds").exit_code for name in ("refactored", "dark")] == [0, 1]
    assert len(Store(store.root).records()) == before  # nothing was drawn or scored for it
    both = judged("dark", "--own-seeds", "--margins", str(tmp_path / "margins.toml"))
    assert (both.exit_code, "give one of them" in both.stderr) == (2, True)
    single = judged("dark", "--own-seeds", "--seed", "0")
    assert (single.exit_code, "has one seed" in single.stderr) == (2, True)


def test_missing_weights_are_exit_code_3(tmp_path: Path) -> None:
    suite_in(tmp_path)
    (tmp_path / "plugins.py").write_text(
        (tmp_path / "plugins.py").read_text()
        + '''
from bench.errors import PrerequisiteError

def needs(device="cpu", precision="fp32"):
    raise PrerequisiteError("no weights here: scrollbench weights fetch big")

needs.describe = needs

@method("latent", family="latent")
def latent(backbone, prompt, canvas, noise):
    """Needs a network."""
'''
    )
    text = SUITE.replace('tier = "miniature"', 'tier = "miniature"\nbackbone = "plugins.py@needs"')
    (tmp_path / "gated.toml").write_text(text)
    said = call(tmp_path, "gate", "--baseline", "plain", "--candidate", f"{tmp_path / 'plugins.py'}@latent", "--run")
    assert said.exit_code == 3, said.output
    assert "scrollbench weights fetch big" in said.stderr


def test_update_writes_and_shows_the_change(tmp_path: Path) -> None:
    made(tmp_path, "plain", "dark")
    file = tmp_path / "pin.toml"
    first = call(tmp_path, "gate", "--baseline", str(file), "--candidate", "plain", "--update")
    assert (first.exit_code, '+label = "plain"' in first.stdout) == (0, True)
    dark = f"{tmp_path / 'plugins.py'}@dark"
    assert call(tmp_path, "gate", "--baseline", str(file), "--candidate", dark).exit_code == 1
    second = call(tmp_path, "gate", "--baseline", str(file), "--candidate", dark, "--update")
    assert '-label = "plain"' in second.stdout
    assert '+label = "plugins.py@dark"' in second.stdout
    assert call(tmp_path, "gate", "--baseline", str(file), "--candidate", dark).exit_code == 0


def test_xml_and_markdown_survive_any_text() -> None:
    assert report_gate._plain("a|b_c*`<x>\x1b[2J") == "a\\|b\\_c\\*\\`&lt;x&gt;\\\\x1b\\[2J"
    assert report_gate._xml("a\x00b\x1fc\n") == "abc\n"
