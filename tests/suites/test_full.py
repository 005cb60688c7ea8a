"""Suites of tier full: what the shipped ones say, what they do without weights, and how they run on the miniature."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.cli.app import main
from bench.errors import UsageError
from bench.pipeline.plan import make_plan
from bench.registry import find
from bench.report.contact import sheet_name
from bench.store import Store
from bench.suites.load import load_suite
from bench.suites.natives import drawn
from tests.support.small import PLUGINS, SUITE, small, write_suite

SUITES = {  # prompts a part
    "pano-1k": 1000, "panollama-table1": 1000, "drspo-table1": 420, "drspo-table2": 420, "msd-fig4": 5,
    "scrollscape-table1": 1000, "scrollscape-ablation": 1000, "scale-dit-4k": 195, "scroll-32k": 8,
}  # fmt: skip

# -- any suite of tier full, on the miniature

BLOCKED = (
    PLUGINS
    + """
def large(device="cpu", precision="fp32"):
    raise AssertionError("nothing loads this")

def told(**options):
    from bench.errors import PrerequisiteError
    raise PrerequisiteError("fetch it with: hf download someone/large")

large.describe = told
"""
)
FULL = (
    SUITE.replace('"miniature"', '"full"')
    .replace("@fake", "@large")
    .replace("width = 16\nheight = 8", "width = 512\nheight = 256")
    + """view = "tiles:64"
[[metrics]]
ref = "gsd-dino"
extractor = "dinov2-vitb14"
[[metrics]]
ref = "kid"
reference = "real"
[[methods]]
ref = "plugins.py@latent-grain"
label = "elsewhere"
backbone = "plugins.py@large"
[references.real]
kind = "folder"
path = "real"
[miniature]
scale = 8
backbone = "plugins.py@fake"
defaults = { steps = 2 }
"""
)


def shrunk(folder: Path, toml: str = FULL, **overrides: Any) -> Any:
    return small(folder, toml, BLOCKED, tier="miniature", **overrides)


def test_the_miniature_divides_canvases_and_views_and_takes_its_own_networks(tmp_path: Path) -> None:
    suite = shrunk(tmp_path)
    assert (suite.tier, str(suite.parts[0].canvas)) == ("miniature", "64x32")
    assert {m.label: m.backbone for m in suite.methods} == {
        "plugins.py@grain": None, "latent": str(tmp_path / "plugins.py@fake"),
    }  # fmt: skip
    assert {m.label: (m.view, m.extractor) for m in suite.metrics} == {
        "plugins.py@brightness": ("tiles:8", None), "gsd-dino": ("tiles", "world-vit"),
    }  # fmt: skip
    assert [(u.kind, u.label) for u in suite.unavailable] == [("method", "elsewhere"), ("metric", "kid")]
    assert "no stand-in for backbone" in suite.unavailable[0].reason
    assert "no reference 'real'" in suite.unavailable[1].reason


def test_a_method_that_says_why_it_cannot_run_on_the_miniature_is_listed_with_that_reason(tmp_path: Path) -> None:
    toml = FULL.replace('label = "latent"', 'label = "latent"\nminiature = "too coarse"')
    assert toml != FULL
    suite = shrunk(tmp_path, toml)
    assert ("latent", "too coarse") in [(u.label, u.reason) for u in suite.unavailable]
    assert "latent" not in [m.label for m in suite.methods]


def test_stand_ins_and_references_of_the_miniature_bring_back_what_was_left_out(tmp_path: Path) -> None:
    toml = FULL + (
        'backbones = {"%s" = "plugins.py@fake"}\n[miniature.references.real]\nkind = "world"\nwidth = 32\n'
        % (tmp_path / "plugins.py@large")
    )
    suite = shrunk(tmp_path, toml)
    assert [m.label for m in suite.methods] == ["plugins.py@grain", "latent", "elsewhere"]
    assert [(m.label, m.extractor) for m in suite.metrics][2:] == [("kid", "world-cnn")]
    assert suite.references == {"real": {"kind": "world", "width": 32}}
    assert suite.unavailable == ()


def test_knobs_of_the_miniature_replace_those_of_the_large_network(tmp_path: Path) -> None:
    def steps(toml: str, **overrides: Any) -> int:
        return int(next(m for m in shrunk(tmp_path, toml, **overrides).methods if "latent" in m.label).params["steps"])

    given = FULL.replace('label = "latent"', 'label = "latent"\nset = {steps = 50}')
    assert steps(given) == 2
    assert steps(given.replace("{steps = 50}", "{steps = 50}\nminiature = {steps = 4}")) == 4
    assert steps(given.replace("defaults = { steps = 2 }", "")) == 50
    assert steps(given, set=["latent.steps=6"]) == 6


def test_metrics_of_the_miniature_replace_the_suites(tmp_path: Path) -> None:
    suite = shrunk(tmp_path, FULL + '[[miniature.metrics]]\nref = "intra-lpips"\nview = "windows"\n')
    assert [(m.label, m.view, m.extractor) for m in suite.metrics] == [("intra-lpips", "windows", "world-lpips")]
    assert [u.kind for u in suite.unavailable] == ["method"]


def test_a_metric_whose_network_has_no_stand_in_is_left_out_and_told(tmp_path: Path) -> None:
    named = FULL.replace('extractor = "dinov2-vitb14"', 'extractor = "no-such-network"\nplanned = true')
    assert [(u.label, u.reason) for u in shrunk(tmp_path / "a", named).unavailable][1] == (
        "gsd-dino", "the miniature has no stand-in for the network no-such-network",
    )  # fmt: skip
    plugins = BLOCKED + (
        '@metric("liking", scope="image", values={"liking": "higher"}, extractor="owl")\ndef liking(sample): ...\n'
    )
    suite = small(tmp_path / "b", FULL.replace("@brightness", "@liking"), plugins, tier="miniature")
    told = {u.label: u.reason for u in suite.unavailable}
    assert told["plugins.py@liking"] == "the miniature has no stand-in for a network of role owl"


def test_tiers_never_share_a_board_and_the_full_tier_is_what_the_file_says(tmp_path: Path) -> None:
    full, small_ = small(tmp_path, FULL, BLOCKED), shrunk(tmp_path)
    assert full.digest != small_.digest
    assert small(tmp_path, FULL, BLOCKED, tier="full").digest == full.digest
    assert (full.tier, str(full.parts[0].canvas), full.left_out) == ("full", "512x256", ())
    names = [sheet_name(s) for s in (full, small_, small(tmp_path / "own"))]  # nor a contact sheet
    assert names == ["small-contact.png", "small-miniature-contact.png", "small-contact.png"]


@pytest.mark.parametrize(
    ("toml", "tier", "message"),
    [
        (FULL, "minature", "unknown tier 'minature'; did you mean 'miniature'"),
        (SUITE, "full", "is of tier miniature; there is no full tier of it"),
        (FULL.partition("[miniature]")[0], "miniature", r"has no \[miniature\] table"),
        (FULL.replace("scale = 8", "scale = 64\nseeds = 2").replace("width = 512", "width = 500"), "miniature",
         "part '2to1' is 500x256, sides that 64 does not divide"),
        (FULL.replace("tiles:64", "tiles:60"), "miniature", "8 does not divide the side of view 'tiles:60'"),
        (FULL.replace("scale = 8", "scales = 8"), "full", r"miniature\.scales: unknown key; did you mean 'scale'"),
        (SUITE + "[miniature]\nscale = 8\n", "miniature", r"miniature: this table shows how a suite of tier full"),
        (FULL + '[[miniature.metrics]]\nref = "kid"\nreference = "real"\n', "full",
         r"miniature\.metrics\[0\]\.reference: unknown 'real'"),
    ],
)  # fmt: skip
def test_a_mistake_about_tiers_is_answered(tmp_path: Path, toml: str, tier: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        small(tmp_path, toml, BLOCKED, tier=tier)


def test_what_the_miniature_leaves_out_cannot_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="method 'elsewhere': the miniature has no stand-in for backbone"):
        shrunk(tmp_path, methods=["elsewhere"])
    assert [m.label for m in shrunk(tmp_path, methods=["latent"]).methods] == ["latent"]


def call(*args: Any) -> Any:
    return CliRunner().invoke(main, [str(a) for a in args])


def test_without_weights_the_command_says_what_to_fetch_and_names_the_miniature(tmp_path: Path) -> None:
    file, store = write_suite(tmp_path, FULL, BLOCKED), tmp_path / "store"
    said = call("generate", "--suite", file, "--store", store, "--method", "latent")
    assert said.exit_code == 3
    assert "hf download someone/large" in said.stderr
    assert "--tier miniature runs suite small on the embedded miniature" in said.stderr
    some = call("generate", "--suite", file, "--store", store)  # the control is drawn all the same
    assert (some.exit_code, "made         3" in some.stdout) == (3, True)
    assert "latent, 2to1: 3 pictures not tried: fetch it with: hf download someone/large" in some.stderr
    assert "--tier miniature" in some.stderr
    here = call("generate", "--suite", file, "--store", store, "--tier", "miniature")
    assert (here.exit_code, here.stderr.count("--tier")) == (0, 0)
    plain = write_suite(tmp_path / "b", FULL.partition("[miniature]")[0], BLOCKED)
    without = call("generate", "--suite", plain, "--store", store, "--method", "latent")
    assert (without.exit_code, "--tier" in without.stderr) == (3, False)


# -- the shipped ones


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prompt sets of the names that the shipped suites use, with five short prompts each."""
    for name in ("pano-1k", "drspo-style", "msd-8"):
        folder = tmp_path / "prompts" / name / "1"
        folder.mkdir(parents=True)
        texts = ("a harbour at dusk", "snow on a long wall", "three boats", "an ink scroll of a river", "a busy street")
        lines = [json.dumps({"id": f"p{i}", "text": text}) for i, text in enumerate(texts)]
        (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("bench.prompts.sets.ROOT", tmp_path / "prompts")
    return tmp_path


TABLES = {  # the rows of the papers' tables
    "panollama-table1": {"MultiDiffusion", "SyncDiffusion", "MAD", "StreamMultiDiffusion", "PanoLlama"},
    "drspo-table1": {
        "MultiDiffusion", "SDXL", "FLUX", "MAD", "SyncDiffusion", "ElasticDiffusion", "FLUX + ESRGAN",
        "SD 3.5 + ESRGAN", "PixArt", "DRSPO",
    },
    "drspo-table2": {"DRSPO", "DRSPO w/o control", "DRSPO w/o DPO", "DRSPO with IP-Adapter"},
    "msd-fig4": {"MultiDiffusion", "SyncDiffusion", "MSD"},
    "scrollscape-table1": {
        "DyPE", "MultiDiffusion", "SyncDiffusion", "Tiled Diffusion", "ScrollScape", "FLUX.1-Krea",
        "FLUX.1-Krea, mu 1.15",
    },
    "scrollscape-ablation": {
        "Wan2.1 vanilla", "ScrollScape w/o training", "ScrollScape w/o TAP", "ScrollScape w/o ScrollSR",
        "ScrollScape (full)",
    },
    "scale-dit-4k": {
        "SANA", "Diffusion-4K", "UltraPixel", "URAE", "FLUX+SR (BSRGAN)", "DemoFusion", "DiffuseHigh", "HiDiffusion",
        "FreCas", "I-MAX", "HiFlow", "Scale-DiT", "FLUX.1-dev",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_a_papers_table_has_its_place(few: Path, name: str) -> None:
    suite = load_suite(name)
    absent = {u.label for u in suite.unavailable if u.kind == "method"}
    here = {m.label for m in suite.methods}
    assert here | absent == TABLES[name]
    assert not here & absent


@pytest.mark.parametrize("name", SUITES)
def test_a_shipped_suite_resolves_in_both_tiers_and_limits(name: str) -> None:
    full, small_ = load_suite(name), load_suite(name, {"tier": "miniature", "limit": 2})
    assert (full.tier, small_.tier) == ("full", "miniature")
    assert [len(p.prompts.prompts) for p in full.parts] == [SUITES[name]] * len(full.parts)
    assert len(full.seeds) == (500 if name == "msd-fig4" else 1)
    assert full.methods
    networks = {m.backbone for m in small_.methods} | {m.extractor for m in small_.metrics}
    assert all(n is None or n.startswith("world-") for n in networks)
    assert all(max(p.canvas.width, p.canvas.height) <= 320 for p in small_.parts)
    assert [len(p.prompts.prompts) for p in small_.parts] == [2] * len(full.parts)


def test_a_stand_in_keeps_the_options_that_say_how_to_sample_and_no_others() -> None:
    rows = {m.label: m for m in load_suite("scrollscape-table1", {"tier": "miniature", "limit": 1}).methods}
    plain, shifted = rows["FLUX.1-Krea"], rows["FLUX.1-Krea, mu 1.15"]
    assert (plain.backbone, plain.backbone_options) == ("world-flux", {})
    assert (shifted.backbone, shifted.backbone_options) == ("world-flux", {"mu": 1.15})
    assert rows["SyncDiffusion"].backbone_options == {}


@pytest.mark.parametrize("name", SUITES)
def test_a_shipped_suite_plans_without_weights(few: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(few / "no-hub"))
    suite = load_suite(name, {"limit": 2, "seeds": [0]})
    plan = make_plan(suite, Store(few / "store"))
    assert {b.label for b in plan.blocked} == {m.label for s in drawn(suite) for m in s.methods}
    for b in plan.blocked:
        assert b.pictures == 2
        assert any(command in b.reason for command in ("hf download", "weights fetch", "llamagen.convert"))
    said = call("run", "--suite", name, "--limit", 2, "--store", few / "store")
    assert (said.exit_code, said.stdout) == (3, "")
    assert f"--tier miniature runs suite {name}" in said.stderr


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared") / "store"  # reference sets are drawn once for all suites


def abridged(name: str, folder: Path) -> Path:
    """A shipped suite with canvases of 2:1 and small reference sets; all else is as it is, but for MSD's windows."""
    toml = Path(find("suites", name)).read_text()
    twice = r"width = \d{4,5}, height = (\d+)", lambda m: f"width = {2 * int(m[1])}, height = {m[1]}"
    toml, canvases = re.subn(*twice, toml)
    assert canvases
    file = folder / f"{name}.toml"
    if name.startswith("msd"):  # three methods, gradients, two rows of windows: those side by side are enough
        toml = toml.replace("stride = 4", "stride = 8")
    file.write_text(re.sub(r"count = \d+", "count = 8", toml))
    return file


@pytest.mark.parametrize("name", SUITES)
def test_a_shipped_suite_runs_on_the_miniature_from_end_to_end(few: Path, shared_store: Path, name: str) -> None:
    file = abridged(name, few)
    chosen = load_suite(file, {"tier": "miniature"})
    short = [f"--set={m.label}.{knob}=2" for m in chosen.methods for knob in ("steps", "kept") if knob in m.params]
    done = call("run", "--suite", file, "--tier", "miniature", "--limit", 2, "--store", shared_store, "--json", *short)
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert Path(said["contact_sheet"]) == shared_store / f"{name}-miniature-contact.png"
    cells = sum(2 * len(s.parts) * len(s.methods) for s in drawn(chosen))
    assert said["generate"]["made"] + said["generate"]["done"] <= cells  # equal recipes share their picture
    for board in said["board"]:
        assert len(board["methods"]) == len(chosen.methods)
        assert len(board["columns"]) == len(chosen.metrics) + 2  # seconds and network evaluations
        assert all((line["wanted"], line["made"], line["failed"]) == (2, 2, 0) for line in board["methods"])


def test_listings_show_what_is_here_of_a_suite_and_what_is_not(few: Path) -> None:
    rows = {r["name"]: r for r in json.loads(call("list", "suites", "--json").stdout)}
    assert rows["miniature"]["methods"] == "12"
    assert rows["scale-dit-4k"]["methods"].endswith(" of 13")
    assert rows["msd-fig4"]["parts"] == ["4to1 4096x1024"]
    assert rows["msd-fig4"]["tier"] == "full, miniature"
    sheet = next(s for s in json.loads(call("show", "scale-dit-4k", "--json").stdout) if s["kind"] == "suite")
    assert "FLUX.1-dev" in sheet["methods"]
    assert sheet["unavailable"]["method SANA"] == "not in this project: a network of its own"
    other = next(s for s in json.loads(call("show", "drspo-table1", "--json").stdout) if s["kind"] == "suite")
    assert other["methods"]["SyncDiffusion"]["backbone"] == "sd20"
    assert "backbone" not in other["methods"]["SDXL"]
    msd = next(s for s in json.loads(call("show", "msd-fig4", "--json").stdout) if s["kind"] == "suite")
    assert msd["seeds"] == "0 to 499"
