"""Protocol presets: data that says everything and names its assumptions, and metrics that exist."""

import tomllib

import pytest

from bench import catalogue, extractors
from bench.errors import UsageError
from bench.protocols import FOLDER, load_protocol, protocols
from bench.registry import find
from bench.suite_file import MetricFile, ReferenceFile, SuiteFile, check_labels
from bench.suite_miniature import shrink
from bench.types import Canvas
from bench.views import boxes

PAPERS = {
    "syncdiffusion-2023": Canvas(3072, 512), "panollama-2025": Canvas(5120, 512), "drspo-2025": Canvas(4096, 1024),
    "msd-2024": Canvas(4096, 1024), "scrollscape-2026": Canvas(4096, 512), "scale-dit-2025": Canvas(4096, 4096),
    "scrollbench-1": Canvas(4096, 512),
}  # fmt: skip
SMALL = """
name = "small"
title = "Small"
source = "nowhere"
[[metrics]]
ref = "fid"
view = "tiles"
reference = "squares"
assumed.view = "a guess"
[references.squares]
kind = "folder"
path = "squares"
"""


def named(protocol, label):
    return next(m for m in protocol.metrics if m.get("label", m["ref"]) == label)


def test_the_presets_are_those_of_the_papers_and_our_own():
    assert protocols() == sorted(PAPERS)


@pytest.mark.parametrize("name", PAPERS)
def test_every_entry_is_a_suites_entry_that_can_be_computed_on_the_papers_canvas(name):
    protocol = load_protocol(name)
    assert protocol.name == name
    for entry in protocol.metrics:
        m = MetricFile.model_validate(entry)
        metric = find("metrics", m.ref)
        metric.resolve(m.set)
        assert boxes(m.view, PAPERS[name], "p")
        role = extractors.role(m.extractor)
        assert role == metric.extractor
        assert ("reference" in metric.inputs) == (m.reference is not None)
        assert m.reference is None or m.reference in protocol.references
        assert not m.planned
    for spec in protocol.references.values():
        assert ReferenceFile.model_validate(spec).planned  # folders that users fill


@pytest.mark.parametrize("name", PAPERS)
def test_every_assumption_is_about_a_field_and_gives_a_reason(name):
    protocol = load_protocol(name)
    for label, fields in protocol.assumed.items():
        for field, why in fields.items():
            assert field in named(protocol, label)
            assert len(why.split()) >= 2
    assert not any("assumed" in m for m in protocol.metrics)
    written = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    assert sum(len(m.get("assumed", {})) for m in written["metrics"]) == sum(map(len, protocol.assumed.values()))
    assert bool(protocol.assumed) == (name != "scrollbench-1")


@pytest.mark.parametrize("name", PAPERS)
def test_a_suite_made_of_a_protocols_entries_is_a_suite_and_runs_on_the_miniature(name):
    protocol, canvas = load_protocol(name), PAPERS[name]
    squares = {"kind": "world", "width": 32, "count": 8, "prompts": "scrollworld@1"}
    suite = SuiteFile.model_validate(
        {
            "name": "small", "version": "1", "tier": "full", "metrics": protocol.metrics,
            "references": protocol.references,
            "parts": [{"name": "p", "width": canvas.width, "height": canvas.height, "prompts": "scrollworld@1"}],
            "miniature": {"scale": 16, "references": dict.fromkeys(protocol.references, squares)},
        }
    )  # fmt: skip
    check_labels(suite, FOLDER)
    small, left_out = shrink(suite, FOLDER)
    assert len(small.metrics) + len(left_out) == len(protocol.metrics)
    assert all("no stand-in for the network" in u.reason for u in left_out)
    for m in small.metrics:
        assert boxes(m.view, Canvas(canvas.width // 16, canvas.height // 16), "p")
        assert extractors.role(m.extractor) == find("metrics", m.ref).extractor


def test_the_quirks_of_syncdiffusion_are_in_its_preset():
    sync = load_protocol("syncdiffusion-2023")
    assert named(sync, "fid")["view"] == named(sync, "kid")["view"] == "random-2023:512"
    assert named(sync, "fid")["extractor"] == "inception-clean"
    assert named(sync, "kid")["set"]["order"] == "clean-fid"
    assert "intra-style-sum" in find("metrics", named(sync, "intra-style")["ref"]).values
    assert [b.x for b in boxes(named(sync, "intra-lpips")["view"], PAPERS["syncdiffusion-2023"])] == [
        0, 512, 1024, 1536, 2048, 2560
    ]  # fmt: skip
    assert "extractor" not in sync.assumed.get("intra-lpips", {})  # VGG is stated by the code
    assert "mean-giqa" in sync.left_out


def test_patches_are_tiles_of_1024_px_in_scale_dits_preset():
    dit = load_protocol("scale-dit-2025")
    assert {named(dit, f"{m}-patch")["view"] for m in ("fid", "is")} == {"tiles:1024"}
    assert len(boxes("tiles:1024", PAPERS["scale-dit-2025"])) == 16
    assert named(dit, "is")["set"] == {"splits": 10}


def test_our_own_protocol_reads_coherence_both_ways_and_compares_with_two_references():
    ours = load_protocol("scrollbench-1")
    both = named(ours, "gsd-lpips"), named(ours, "intra-lpips")
    assert both[0]["extractor"] == both[1]["extractor"] == "lpips-vgg-512"
    assert {m["reference"] for m in ours.metrics if m["ref"] == "kid"} == {"panoramas", "squares"}


def test_a_protocol_of_ones_own_is_read_from_its_file(tmp_path):
    file = tmp_path / "small.toml"
    file.write_text(SMALL)
    protocol = load_protocol(file)
    assert protocol.metrics == [{"ref": "fid", "view": "tiles", "reference": "squares"}]
    assert protocol.references == {"squares": {"kind": "folder", "path": "squares"}}
    assert protocol.assumed == {"fid": {"view": "a guess"}}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('view = "tiles"\n', "", r"assumed\.view: the entry does not give"),
        ('assumed.view = "a guess"', "", None),
        ('view = "tiles"\n', 'vew = "tiles"\n', "did you mean 'view'"),
        ('reference = "squares"', 'reference = "square"', "did you mean 'squares'"),
        ("[references", '[[metrics]]\nref = "fid"\nview = "whole"\n[references', "is there twice"),
        ('name = "small"', "name = small", "not TOML"),
        ('source = "nowhere"\n', "", "source: missing"),
    ],
)
def test_mistakes_in_a_protocol_are_named_with_their_place(tmp_path, old, new, said):
    file = tmp_path / "small.toml"
    file.write_text(SMALL.replace(old, new))
    if said is None:
        assert load_protocol(file).assumed == {}
        return
    with pytest.raises(UsageError, match=said):
        load_protocol(file)


def test_an_entry_without_a_view_or_a_preset_without_a_file_is_refused(tmp_path):
    file = tmp_path / "small.toml"
    file.write_text(SMALL.replace('view = "tiles"\n', "").replace('assumed.view = "a guess"', ""))
    with pytest.raises(UsageError, match="a protocol says where its metrics look"):
        load_protocol(file)
    with pytest.raises(UsageError, match="did you mean 'syncdiffusion-2023'"):
        load_protocol("syncdiffusion")


def test_protocols_are_listed_and_shown_with_their_assumptions():
    rows = {row["name"]: row for row in catalogue.listing("protocols")}
    assert set(rows) == set(PAPERS)
    assert rows["syncdiffusion-2023"]["metrics"] == 5
    (shown,) = catalogue.describe("panollama-2025")
    assert shown["kind"] == "protocol"
    assert shown["metrics"]["panollama"] == "lpips-vgg @ tiles:512"
    assert "extractor" in shown["assumed"]["panollama"]
    assert "coh" in shown["left_out"]
