"""Suites: what a file means, what commands may change of it, and how mistakes in it are answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small import PLUGINS, SUITE, small, write_suite

from bench import registry
from bench.errors import UsageError
from bench.suite import load_suite


def test_a_suite_says_what_is_asked_and_by_whom(tmp_path: Path) -> None:
    suite = small(tmp_path)
    assert (suite.ref, suite.tier, suite.title, suite.seeds) == ("small@1", "miniature", "Small", (0,))
    [part] = suite.parts
    assert (part.name, str(part.canvas)) == ("2to1", "16x8")
    assert [p.id for p in part.prompts.prompts] == ["harbour", "reef", "dune"]
    assert [(m.label, m.control, dict(m.params)) for m in suite.methods] == [
        ("plugins.py@grain", True, {"scale": 1.0}),
        ("latent", False, {"steps": 3}),
    ]
    [metric] = suite.metrics
    assert (metric.label, metric.view, metric.extractor) == ("plugins.py@brightness", "whole", None)
    assert metric.params == {"scale": 1.0}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "Small"', 'titel = "Small"', r"small\.toml: titel: unknown key; did you mean 'title'"),
        ('label = "latent"', 'lable = "latent"', r"methods\[1\]\.lable: unknown key; did you mean 'label'"),
        ("width = 16", 'width = "16"', r"small\.toml: parts\[0\]\.width: .*valid integer, got '16'"),
        ("width = 16", "width = 0", r"small\.toml: parts\[0\]\.width: .*greater than 0, got 0"),
        ("height = 8", "", r"small\.toml: parts\[0\]\.height: missing"),
        ('tier = "miniature"', 'tier = "mini"', r"small\.toml: tier: .*'miniature' or 'full', got 'mini'"),
        ('title = "Small"', "title = ", r"small\.toml: not TOML: .*line 5"),
        ('label = "latent"', 'label = "plugins.py@grain"', r"methods\[1\]: 'plugins\.py@grain' is there twice"),
        ("prompts.jsonl", "absent.jsonl", r"small\.toml: part '2to1': cannot read prompt file .*absent\.jsonl"),
        ("prompts.jsonl", "no-such-set@1", r"small\.toml: part '2to1': unknown prompt set 'no-such-set@1'"),
        ('ref = "plugins.py@brightness"', 'ref = "x"\nreference = "real"\n[references.reals]\nkind = "folder"',
         r"metrics\[0\]\.reference: unknown 'real'; did you mean 'reals'"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_answered_with_file_key_and_near_misses(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in SUITE
    with pytest.raises(UsageError, match=message):
        small(tmp_path, SUITE.replace(old, new, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suite": SUITE.replace("@grain", "@grian")}, r"small\.toml: method '.*grian'.*did you mean 'grain'"),
        ({"suite": SUITE.replace('"latent"', '"latent"\nset = {step = 2}')}, r"method 'latent'.*'step'.*'steps'"),
        ({"suite": SUITE.replace('title = "Small"', "defaults = {step = 2}")}, r"defaults\.step: .*mean 'steps'"),
        ({"set": ["latent.steps=few"]}, r"--set: latent-grain\.steps takes int, got 'few'"),
        ({"set": ["latnet.steps=2"]}, r"--set: no method 'latnet' in this run; did you mean 'latent'"),
    ],
)  # fmt: skip
def test_a_mistake_about_methods_is_answered_when_they_are_asked_for(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    suite = small(tmp_path, **change)
    with pytest.raises(UsageError, match=message):
        _ = suite.methods


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"set": ["steps=2"]}, "takes METHOD.KNOB=VALUE"),
        ({"limit": -1}, "takes a number of prompts"),
        ({"method": ["x"]}, "no override 'method'; did you mean 'methods'"),
    ],
)
def test_an_override_without_meaning_is_refused(tmp_path: Path, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_suite(write_suite(tmp_path), overrides)


def test_an_unknown_suite_is_answered_with_near_misses() -> None:
    with pytest.raises(UsageError, match="unknown suite 'minature'; did you mean 'miniature'"):
        load_suite("minature")


def test_another_version_than_the_file_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_suite(tmp_path)
    monkeypatch.setattr("bench.suite.find", lambda kind, name: file)
    assert load_suite("small@1").ref == "small@1"
    with pytest.raises(UsageError, match="holds version 1"):
        load_suite("small@2")


def test_the_suites_own_methods_keep_their_knobs_when_chosen_by_name(tmp_path: Path) -> None:
    toml = SUITE.replace('label = "latent"', 'label = "latent"\nset = {steps = 7}')
    for name in ("latent", "plugins.py@latent-grain"):
        [use] = small(tmp_path, toml, methods=[name]).methods
        assert (use.label, use.params["steps"]) == ("latent", 7)


def test_other_methods_join_by_file_and_preset_and_get_the_suites_defaults(tmp_path: Path) -> None:
    toml = SUITE.replace('title = "Small"', "defaults = {steps = 5}")
    other = write_suite(tmp_path / "b").with_name("plugins.py")
    grain, latent = small(tmp_path / "a", toml, methods=[f"{other}@grain:fine", f"{other}@latent-grain"]).methods
    assert (grain.label, grain.params) == ("plugins.py@grain:fine", {"scale": 0.5})
    assert latent.params == {"steps": 5}


def test_other_metrics_join_with_extractor_and_view(tmp_path: Path) -> None:
    suite = load_suite(write_suite(tmp_path), {"metrics": ["gsd-dino[world-vit]@windows"]})
    [metric] = suite.spec.metrics
    assert (metric.ref, metric.extractor, metric.view) == ("gsd-dino", "world-vit", "windows")


def test_a_changed_knob_makes_a_column_of_its_own(tmp_path: Path) -> None:
    labels = [m.label for m in small(tmp_path, set=["latent.steps=9", "grain.scale=1"]).methods]
    assert labels == ["plugins.py@grain", "latent[steps=9]"]  # 1 is grain's scale already


def test_a_limit_spreads_over_the_part_and_zero_drops_the_selection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "prompts" / "world" / "1"
    root.mkdir(parents=True)
    (root / "prompts.jsonl").write_text("".join(f'{{"id": "p{i}", "text": "{i}"}}\n' for i in range(8)))
    monkeypatch.setattr("bench.prompts.ROOT", tmp_path / "prompts")
    file = write_suite(tmp_path, SUITE.replace("prompts.jsonl", "world@1:4"))

    def ids(**overrides: Any) -> list[str]:
        return [p.id for p in load_suite(file, overrides).parts[0].prompts.prompts]

    assert ids() == ["p0", "p2", "p4", "p6"]
    assert ids(limit=2) == ["p0", "p4"]
    assert ids(limit=0) == [f"p{i}" for i in range(8)]


def test_the_digest_is_what_is_asked_not_who_answers_or_how_it_is_measured(tmp_path: Path) -> None:
    suite = small(tmp_path)
    same: list[dict[str, Any]] = [
        {"methods": ["latent"]}, {"set": ["latent.steps=9"]}, {"metrics": ["plugins.py@brightness"]},
        {"suite": SUITE.replace('title = "Small"', 'backbone_options = {device = "cuda"}')},
    ]  # fmt: skip
    other: list[dict[str, Any]] = [
        {"limit": 1}, {"seeds": [1]}, {"suite": SUITE.replace("width = 16", "width = 24")},
        {"suite": SUITE.replace("width = 16", "loop = true\nwidth = 16")},
        {"suite": SUITE.replace('version = "1"', 'version = "2"')},
        {"suite": SUITE.replace('title = "Small"', 'backbone_options = {precision = "fp16"}')},
    ]  # fmt: skip
    assert {small(tmp_path, **change).digest for change in same} == {suite.digest}
    assert len({small(tmp_path, **change).digest for change in other} | {suite.digest}) == len(other) + 1


def test_the_digest_does_not_depend_on_where_the_files_lie(tmp_path: Path) -> None:
    assert small(tmp_path / "a").digest == small(tmp_path / "b").digest


def test_set_metrics_need_a_reference_and_image_metrics_take_none(tmp_path: Path) -> None:
    plugins = PLUGINS + (
        '@metric("distance", scope="set", values={"distance": "lower"})\ndef distance(features, reference): ...\n'
    )
    toml = SUITE + '[references.real]\nkind = "folder"\npath = "real"\n'
    reference = toml.replace("@brightness", '@brightness"\nreference = "real').replace("@brightness", "@distance")
    [use] = small(tmp_path, reference, plugins).metrics
    assert use.reference == "real"
    assert use.label == "plugins.py@distance"
    with pytest.raises(UsageError, match="distance needs a reference; references of this suite: real"):
        _ = small(tmp_path, toml.replace("@brightness", "@distance"), plugins).metrics
    with pytest.raises(UsageError, match="brightness scores pictures and takes no reference"):
        _ = small(tmp_path, reference.replace("@distance", "@brightness"), plugins).metrics


def test_paths_in_a_suite_are_meant_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    suite = small(tmp_path / "elsewhere", SUITE + '[references.real]\nkind = "folder"\npath = "real"\n')
    assert suite.references["real"] == {"kind": "folder", "path": str(tmp_path / "elsewhere" / "real")}
    assert len(suite.methods) == 2


def test_pictures_need_no_metric_and_scores_need_no_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = small(tmp_path, SUITE.replace("plugins.py@brightness", "nobody-has-this"))
    assert suite.methods
    suite = small(tmp_path, SUITE.replace("plugins.py@grain", "nobody-has-this"))
    assert suite.metrics
    assert suite.digest


def test_loading_and_planning_do_not_import_torch(tmp_path: Path) -> None:
    file = write_suite(tmp_path)
    code = (
        "import sys, bench.run, bench.plan, bench.suite, bench.store;"
        f"from pathlib import Path; s = bench.suite.load_suite(Path({str(file)!r}));"
        f"bench.plan.make_plan(s, bench.store.Store({str(tmp_path / 'store')!r}));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_suites_that_ship_are_found_by_name() -> None:
    assert "miniature" in registry.names("suites")
    path = registry.find("suites", "miniature")
    assert path.is_file()
