"""Suites: what a file means, what commands may change of it, and how mistakes in it are answered."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import registry
from bench.errors import UsageError
from bench.suites.file import read_suite
from bench.suites.load import load_suite
from bench.suites.protocols import load_protocol
from tests.support.small import PLUGINS, SUITE, small, write_suite


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
    monkeypatch.setattr("bench.suites.load.find", lambda kind, name: file)
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
    monkeypatch.setattr("bench.prompts.sets.ROOT", tmp_path / "prompts")
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
        "import sys, bench.pipeline.generate, bench.pipeline.plan, bench.suites.suite, bench.store;"
        f"from pathlib import Path; s = bench.suites.load.load_suite(Path({str(file)!r}));"
        f"bench.pipeline.plan.make_plan(s, bench.store.Store({str(tmp_path / 'store')!r}));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_suites_that_ship_are_found_by_name() -> None:
    assert "miniature" in registry.names("suites")
    path = registry.find("suites", "miniature")
    assert path.is_file()


# -- what stands by name


PLANNED = SUITE + '[[methods]]\nref = "nobody-has-this"\nlabel = "Nobody"\nplanned = true\nnote = "A paper, 2031"\n'


def test_a_planned_method_that_is_not_here_is_told_and_spoils_nothing(tmp_path: Path) -> None:
    suite = small(tmp_path, PLANNED)
    assert [m.label for m in suite.methods] == ["plugins.py@grain", "latent"]
    assert [vars(u) for u in suite.unavailable] == [
        {"kind": "method", "label": "Nobody", "ref": "nobody-has-this",
         "reason": "not in this project: A paper, 2031"}
    ]  # fmt: skip


def test_a_misspelt_name_that_is_not_planned_stays_an_error_with_near_misses(tmp_path: Path) -> None:
    method = small(tmp_path / "a", PLANNED.replace("planned = true\n", "").replace("nobody-has-this", "multidifusion"))
    with pytest.raises(UsageError, match="method 'Nobody': unknown method 'multidifusion'; did you mean 'multidiffu"):
        _ = method.unavailable
    metric = small(tmp_path / "b", SUITE.replace("plugins.py@brightness", "gsd-dyno"))
    with pytest.raises(UsageError, match="unknown metric 'gsd-dyno'; did you mean 'gsd-dino'"):
        _ = metric.unavailable


def test_planned_changes_nothing_where_the_thing_is_there(tmp_path: Path) -> None:
    there = SUITE + '[[methods]]\nref = "world-truth"\n[[metrics]]\nref = "adjacent"\n'
    flagged = there.replace('"world-truth"\n', '"world-truth"\nplanned = true\n').replace(
        '"adjacent"\n', '"adjacent"\nplanned = true\nnote = "said"\n'
    )
    plain, marked = small(tmp_path / "a", there), small(tmp_path / "b", flagged)
    assert [m.label for m in marked.methods] == [m.label for m in plain.methods]
    assert [m.label for m in marked.metrics] == [m.label for m in plain.metrics]
    assert marked.unavailable == ()
    assert marked.digest == plain.digest


def test_files_cannot_be_planned_and_what_is_asked_for_by_name_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"methods\[1\]\.planned: only names can be planned, .*plugins\.py@latent"):
        small(tmp_path, SUITE.replace('label = "latent"', 'label = "latent"\nplanned = true'))
    for name in ("Nobody", "nobody-has-this"):
        with pytest.raises(UsageError, match="unknown method 'nobody-has-this'"):
            _ = small(tmp_path, PLANNED, methods=[name]).methods


def test_a_planned_method_that_does_not_fit_its_backbone_is_told(tmp_path: Path) -> None:
    entry = '[[methods]]\nref = "direct"\nlabel = "own"\nplanned = true\nbackbone = "no-such-network"\n'
    other = '[[methods]]\nref = "direct-tokens"\nlabel = "tokens"\nplanned = true\nbackbone = "world-sd"\n'
    suite = small(tmp_path, SUITE + entry + other)
    assert {u.label: u.reason for u in suite.unavailable} == {
        "own": "its backbone no-such-network is not in this project",
        "tokens": "samples in family tokens, backbone world-sd is of family latent",
    }


def test_metrics_wait_for_planned_references_only(tmp_path: Path) -> None:
    table = '[[metrics]]\nref = "fid"\nreference = "real"\n[references.real]\nkind = "folder"\npath = "real"\n'
    waiting = small(tmp_path, SUITE + table + 'planned = true\nnote = "yours"\n')
    assert [m.label for m in waiting.metrics] == ["plugins.py@brightness"]
    assert [(u.kind, u.label, u.reason) for u in waiting.unavailable] == [
        ("metric", "fid", "its reference 'real' is not here"),
        ("reference", "real", f"no folder {tmp_path / 'real'}: yours"),
    ]
    assert waiting.references == {"real": {"kind": "folder", "path": str(tmp_path / "real")}}
    assert [m.label for m in small(tmp_path, SUITE + table).metrics][1:] == ["fid"]  # scoring says what is missing
    (tmp_path / "real").mkdir()
    there = small(tmp_path, SUITE + table + "planned = true\n")
    assert [m.label for m in there.metrics][1:] == ["fid"]
    assert there.unavailable == ()


# -- backbones of their own


def test_a_method_runs_on_the_suites_backbone_unless_it_names_its_own(tmp_path: Path) -> None:
    toml = SUITE.replace('title = "Small"', 'backbone_options = {device = "cuda", precision = "fp16"}')
    same = '[[methods]]\nref = "plugins.py@latent-grain"\nlabel = "same"\n'
    own = same.replace("same", "own") + 'backbone = "plugins.py@other"\nbackbone_options = {batch = 2}\n'
    suite = small(tmp_path, toml + same + own)
    fake = str(tmp_path / "plugins.py@fake")
    assert {m.label: (m.backbone, m.backbone_options) for m in suite.methods} == {
        "plugins.py@grain": (None, {}),  # a control asks no network
        "latent": (fake, {"device": "cuda", "precision": "fp16"}),
        "same": (fake, {"device": "cuda", "precision": "fp16"}),
        "own": (str(tmp_path / "plugins.py@other"), {"device": "cuda", "batch": 2}),
    }
    assert suite.digest == small(tmp_path, toml).digest


def test_options_of_a_method_go_over_the_suites(tmp_path: Path) -> None:
    toml = SUITE.replace('title = "Small"', 'backbone_options = {device = "cuda", precision = "fp16"}')
    toml = toml.replace('label = "latent"', 'label = "latent"\nbackbone_options = {precision = "bf16"}')
    assert small(tmp_path, toml).methods[1].backbone_options == {"device": "cuda", "precision": "bf16"}


def test_defaults_are_for_the_suites_backbone(tmp_path: Path) -> None:
    toml = SUITE.replace('title = "Small"', "defaults = {steps = 5}")
    own = '[[methods]]\nref = "plugins.py@latent-grain"\nlabel = "own"\nbackbone = "plugins.py@other"\n'
    _, latent, other = small(tmp_path, toml + own).methods
    assert (latent.params, other.params) == ({"steps": 5}, {"steps": 3})


# -- protocols


def test_a_protocol_brings_its_metrics_and_references_before_the_suites_own(tmp_path: Path) -> None:
    suite = small(tmp_path, SUITE.replace('title = "Small"', 'protocol = "msd-2024"'))
    preset = load_protocol("msd-2024")
    refs = [m["ref"] for m in preset.metrics]
    assert [m.ref for m in suite.spec.metrics] == [*refs, str(tmp_path / "plugins.py@brightness")]
    assert set(suite.references) == set(preset.references)
    assert suite.digest == small(tmp_path).digest
    with pytest.raises(
        UsageError, match=r"small\.toml: protocol: unknown protocol 'msd-2042'; did you mean 'msd-2024'"
    ):
        small(tmp_path, SUITE.replace('title = "Small"', 'protocol = "msd-2042"'))


def test_the_file_in_the_documentation_is_a_suite(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "suites.md").read_text()
    file = tmp_path / "mine.toml"
    file.write_text("".join(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)))
    spec = read_suite(file)
    assert (spec.name, spec.seeds, spec.miniature and spec.miniature.scale) == ("mine", [0, 1], 16)
    for name in re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE):
        assert registry.find("suites", name).is_file()


def test_a_number_of_seeds_stands_for_the_first_ones(tmp_path: Path) -> None:
    assert small(tmp_path, SUITE.replace('title = "Small"', "seeds = 3")).seeds == (0, 1, 2)
    for wrong in ("0", "true", '"3"'):
        with pytest.raises(UsageError, match=r"small\.toml: seeds: "):
            small(tmp_path, SUITE.replace('title = "Small"', f"seeds = {wrong}"))
