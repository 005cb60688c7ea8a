"""The speed benchmarks: both sides do the same work, ratios are what they say, and unequal work is found out."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import linregress
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are not part of the package

from bench.extractors.lpips import Lpips
from bench.types import Canvas
from benchmarks import __main__ as command
from benchmarks import (
    attention,
    checkpoint,
    flux_step,
    overhead,
    pages,
    preference_step,
    sampling,
    scoring,
    scroll,
    sharing,
    steps,
    walk,
    wan_clip,
    workers,
)
from benchmarks.memory import peak
from benchmarks.sampling import Drawn, Sampler, Task, faults, watched
from benchmarks.timing import Report, Settings, counted, ratio, rounds, stopwatch
from methods.mad import Joint
from methods.shared.sparse_attention import choose
from methods.shared.token_layout import Layout
from methods.shared.windows import grid

TASK = Task(Canvas(576, 512), steps=2)  # two windows


# -- ratios


def test_a_ratio_is_the_median_of_the_rounds_with_the_least_and_the_most() -> None:
    found = ratio("a / b", [1.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    assert (found.median, found.low, found.high, found.rounds) == (2.0, 1.0, 3.0, 3)
    assert found.seconds == (4.0, 2.0)


def test_rounds_are_paired_before_the_median_is_taken() -> None:
    found = ratio("a / b", [1.0, 10.0, 100.0], [2.0, 20.0, 50.0])
    assert found.median == 0.5
    shuffled = ratio("a / b", [1.0, 10.0, 100.0], [50.0, 2.0, 20.0])  # the same times, paired wrongly
    assert shuffled.median == 5.0
    assert shuffled.seconds == found.seconds


@pytest.mark.parametrize(("over", "under"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [-1.0])])
def test_times_that_make_no_pairs_are_refused(over: list[float], under: list[float]) -> None:
    with pytest.raises(ValueError, match="as many positive times"):
        ratio("a / b", over, under)


def test_sides_take_turns_in_changing_order() -> None:
    order: list[str] = []

    def side(name: str, seconds: float) -> float:
        order.append(name)
        return seconds

    found = rounds({"a": lambda: side("a", 1.0), "b": lambda: side("b", 2.0)}, 3)
    assert "".join(order) == "abbaab"
    assert found == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_a_network_is_counted_by_calls_and_samples_and_other_networks_are_not() -> None:
    with counted(torch.nn.Linear) as count:
        torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())(torch.zeros(3, 2))
        torch.nn.Linear(2, 2)(torch.zeros(5, 2))
    torch.nn.Linear(2, 2)(torch.zeros(7, 2))  # afterwards: not counted
    assert (count.calls, count.samples) == (2, 8)


def test_a_stopwatch_times_the_calls_of_its_methods_and_leaves_them_as_they_were() -> None:
    class Work:
        def done(self, n: int) -> int:
            return n

    before = Work.done
    with stopwatch([(Work, "done")]) as spent:
        assert [Work().done(1), Work().done(n=2)] == [1, 2]
    assert len(spent) == 2
    assert Work.done is before


# -- sampling


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.write(tmp_path_factory.mktemp("perf-sd"), "tiny")


@pytest.fixture(scope="module")
def mine(folder: Path) -> Sampler:
    return sampling.ours(folder)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Drawn:
    return watched(sampling.theirs(folder), TASK)


def test_our_sampler_and_diffusers_do_the_same_work_whatever_the_batch(
    folder: Path, mine: Sampler, theirs: Drawn
) -> None:
    one, many = watched(sampling.ours(folder, batch=1), TASK), watched(mine, TASK)
    assert faults("batch 1", one, theirs) == faults("default", many, theirs) == []
    assert theirs.count.samples == 2 * 2 * 2  # steps, windows, with and without prompt
    assert (one.count.calls, many.count.calls) == (theirs.count.calls, theirs.count.calls // 2)


@pytest.mark.parametrize("change", [{"steps": 3}, {"seed": 1}, {"guidance": 3.0}, {"canvas": Canvas(640, 512)}])
def test_other_work_is_a_fault(mine: Sampler, theirs: Drawn, change: dict[str, object]) -> None:
    other = watched(mine, replace(TASK, **change))
    said = " ".join(faults("ours", other, theirs))
    assert "latents differ by" in said
    assert ("network samples" in said) == ("steps" in change or "canvas" in change)


def test_the_checkpoint_is_the_same_every_time_and_leaves_the_generator_alone(folder: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    again = checkpoint.write(tmp_path, "tiny")
    assert torch.equal(before, torch.get_rng_state())
    part = "unet/diffusion_pytorch_model.safetensors"
    assert (again / part).read_bytes() == (folder / part).read_bytes()


# -- overhead


def test_a_runs_time_is_planning_loading_networks_and_the_rest(folder: Path, tmp_path: Path) -> None:
    suite = overhead.write_suite(tmp_path, folder, 576, steps=1, pictures=2)
    found = overhead.run(suite, {}, tmp_path / "store")
    assert found.pictures == len(list((tmp_path / "store").glob("images/*/*.png"))) == 2
    assert min(found.plan, found.load, found.inside, found.drawing) > 0
    assert found.wall == pytest.approx(found.plan + found.load + found.inside + found.drawing)


def test_a_run_that_calls_no_network_has_no_overhead_to_speak_of(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="0 network calls"):
        overhead.run("miniature", {"methods": ["world-truth"], "limit": 1}, tmp_path)


# -- scoring


def test_scores_are_compared_relative_to_how_far_they_are_from_their_floor() -> None:
    said = {"frechet_inception_distance": 2.0, "kernel_inception_distance_mean": -0.5, "inception_score_mean": 1.01}
    same = scoring.compared({"fid": 2.0, "kid-subset-mean": -0.5, "is-split-mean": 1.01}, said)
    assert [off for *_, off in same.values()] == [0, 0, 0]
    other = scoring.compared({"fid": 2.1, "kid-subset-mean": -0.4, "is-split-mean": 1.011}, said)
    assert [off for *_, off in other.values()] == pytest.approx([0.05, 0.2, 0.1])


def test_the_material_of_scoring_is_two_folders_and_a_store_that_nothing_is_scored_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring.materials, "inception", lambda path: path.write_bytes(b"weights"))
    material = scoring.prepare(tmp_path, pictures=8, side=16)
    assert len(list((tmp_path / "ours").iterdir())) == len(list((tmp_path / "others").iterdir())) == 8
    assert not {p.read_bytes() for p in (tmp_path / "ours").iterdir()} & {
        p.read_bytes() for p in (tmp_path / "others").iterdir()
    }
    kinds = [json.loads(s)["kind"] for f in (tmp_path / "store/records").glob("*.jsonl") for s in f.open()]
    assert kinds.count("image") == 8
    assert not [k for k in kinds if "score" in k]
    assert not (tmp_path / "store" / "features").exists()
    assert [use.label for use in material.suite().metrics] == ["fid", "kid", "is"]


# -- sharing


def test_metrics_apart_read_the_network_again_and_give_the_same_numbers(tmp_path: Path) -> None:
    metrics = ["gsd-lpips", "intra-lpips"]
    names, fresh = sharing.miniature(tmp_path, 2, metrics, "cpu")
    assert names == metrics
    with stopwatch([(Lpips, "distances")]) as once:
        together = fresh(())[1]
    with stopwatch([(Lpips, "distances")]) as twice:
        apart = sharing.apart(names, fresh)[1]
    assert together == apart
    assert len(together) == 4  # two metrics on two pictures
    assert len(twice) == 2 * len(once) > 0


def test_numbers_that_depend_on_what_else_is_scored_are_a_fault() -> None:
    def steady(chosen: Sequence[str]) -> tuple[float, sharing.Numbers]:
        return float(len(chosen) or 2) * 2, dict.fromkeys(chosen or ("a", "b"), 1)

    def moody(chosen: Sequence[str]) -> tuple[float, sharing.Numbers]:
        return 1.0, {name: len(chosen) for name in chosen or ("a", "b")}

    sound, unsound = Report(), Report()
    sharing.compare("steady", ["a", "b"], steady, 2, sound)
    sharing.compare("moody", ["a", "b"], moody, 2, unsound)
    assert sound.faults == []
    assert len(unsound.faults) == 1
    assert (sound.ratios[0].median, unsound.ratios[0].median) == (1.0, 2.0)


# -- attention


def test_an_exponent_is_that_of_a_power_law_and_its_interval_says_how_far_numbers_are_from_one() -> None:
    sizes = [1.0, 4.0, 16.0, 64.0]
    assert attention.exponent(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx((1.5, 1.5, 1.5))
    values = [1.0, 5.0, 15.0, 70.0]
    other = linregress(np.log(sizes), np.log(values))
    half = float(student.ppf(0.975, 2)) * other.stderr
    assert attention.exponent(sizes, values) == pytest.approx((other.slope, other.slope - half, other.slope + half))
    with pytest.raises(ValueError, match="at least three sizes"):
        attention.exponent(sizes[:2], [1.0, 4.0])


def test_beyond_the_native_square_dense_operations_grow_with_the_square_of_the_canvas_and_local_ones_with_it() -> None:
    grids = (64, 96, 128, 256, 512)
    for side, (least, most) in {"dense": (1.9, 2.1), "local": (0.9, 1.1)}.items():
        counted = [attention.operations(attention.layouts(n)[side]) for n in grids]
        _, low, high = attention.exponent([n * n for n in grids], counted)
        assert least < low < high < most


def test_the_products_of_the_gather_are_those_that_it_computes() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    layout = Layout((16, 48), 8)
    q = torch.randn(1, 1, layout.length, attention.WIDTH)
    with FlopCounterMode(display=False) as counter:
        choose(layout, "cpu").attend(q, q, q)
    text = layout.text * (layout.text + layout.high)  # torch counts no fused attention on a CPU
    assert counter.get_total_flops() == 4 * attention.WIDTH * (attention.gathered(layout) - text)


def test_peak_memory_is_what_is_alive_at_once() -> None:
    def work(kept: bool) -> None:
        first = torch.zeros(1000)
        second = first + 1 if kept else None
        del first
        torch.zeros(500) if second is None else torch.zeros(3000)

    assert (peak(lambda: work(True)), peak(lambda: work(False))) == (4 * 4000, 4 * 1000)


def test_measured_and_forecast_grids_stand_in_one_table_of_eighty_columns() -> None:
    table = [attention.counted(side) for side in (16, 32, 48, 128)]
    assert len(attention.timed(table, (16, 32, 48), 1)) == 3
    assert [r["how"] for r in table] == ["measured"] * 3 + ["forecast"]
    told = command.lines(table).splitlines()
    assert max(map(len, told)) <= 80
    for name in ("dense s", "local MB"):
        end = told[0].index(name) + len(name)
        assert [line[:end].split()[-1] for line in told[1:]] == [command.said(r[name]) for r in table]
    of = {(g["of"], g["to"]): g["exponent"] for g in attention.growth(table)}
    assert of["dense GFLOP", 128] > of["local GFLOP", 128]
    assert of["dense s", 48] > 0


def test_memory_counted_on_shapes_is_that_of_the_call() -> None:
    sides = attention.layouts(16)
    for layout in sides.values():
        assert attention.memory(layout) == peak(attention.prepared(layout))
    assert attention.memory(sides["dense"]) < attention.memory(sides["local"])


def test_a_step_of_flux_takes_the_same_network_twice_and_a_kernel_that_is_off_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flux_step, "SMALL", (16, 16))
    monkeypatch.setattr(flux_step, "TEXT", 16)
    network = flux_step.network(flux_step.TINY, "cpu", torch.float32)
    made = flux_step.sides(network, Layout((16, 32), 16), "cpu")
    dense, local = made.dense(), made.local()
    assert dense.shape == local.shape == (1, 16 * 32, 64)
    assert float((dense - local).abs().max()) > 1e-3
    monkeypatch.setitem(flux_step.WITHIN, "bfloat16", 0.0)  # no kernel is as close as that
    report = flux_step.one_step(Settings(tmp_path, repeats=1, quick=True))
    assert (len(report.faults), "in bfloat16" in report.faults[0]) == (1, True)
    assert report.facts["local attention"] == "gather"
    assert [r.rounds for r in report.ratios] == [1]


def test_the_full_size_step_is_that_of_the_public_architecture() -> None:
    told = flux_step.config()
    assert (told["num_layers"], told["num_single_layers"], told["num_attention_heads"]) == (19, 38, 24)
    assert set(flux_step.TINY) <= set(told) | {"patch_size"}


# -- large pictures


def test_a_scroll_is_made_scored_and_read_by_others_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.types.WHOLE", 2**14)
    scroll.write(tmp_path)
    made, scored = (work(tmp_path, 512, 256) for work in (scroll.make, scroll.score))
    assert min(made["bytes"], made["seconds"], scored["seconds"]) > 0
    looked = scroll.look(tmp_path, 512, 256)["pixels are equal"]
    assert looked.items() >= {"Pillow, PNG": True, "Pillow, BigTIFF": True}.items()


@pytest.mark.parametrize(("grown", "pixels", "fault"), [(1.05, True, ""), (1.2, True, "grows"), (1.05, False, "PNG")])
def test_memory_that_grows_with_the_width_and_other_pixels_are_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grown: float, pixels: bool, fault: str
) -> None:
    def child(work: Path, verb: str, width: int, height: int, quick: bool) -> dict[str, object]:
        if verb == "look":
            return {"pixels are equal": {"PNG": pixels}, "libvips": "none"}
        peak = 2**20 * (grown if verb == "make" else 1.0) ** {8192: 0, 16384: 1, 32768: 2}[width]
        return {"peak": peak, "seconds": width / 8192, "bytes": width}

    monkeypatch.setattr(scroll, "_child", child)
    monkeypatch.setattr(scroll, "write", lambda folder: None)
    report = scroll.scroll(Settings(tmp_path))
    assert [fault in f for f in report.faults] == [True] * bool(fault)
    assert [row["width"] for row in report.tables["by width"]] == [8192, 16384, 32768]


def test_a_clip_of_wans_architecture_takes_the_memory_that_was_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wan_clip, "QUICK", ((96, 16),))
    report = wan_clip.clip(Settings(tmp_path, quick=True))
    assert report.faults == []
    assert [row["canvas"] for row in report.tables["pictures"]] == ["96x16"]
    predicted = wan_clip.predicted
    monkeypatch.setattr(wan_clip, "predicted", lambda *asked: (1.0, predicted(*asked)[1] // 2))
    assert "were predicted" in wan_clip.clip(Settings(tmp_path, quick=True)).faults[0]


def test_a_step_of_preferences_on_sdxls_architecture_takes_the_memory_that_was_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = preference_step.preference_step(Settings(tmp_path, quick=True))
    assert report.faults == []
    assert [row["stage"] for row in report.tables["one step"]] == ["low"]
    (row,) = report.tables["one step"]
    known = 1.0, int(row["predicted GB"] * 1e9) // 2
    monkeypatch.setattr(preference_step, "predicted", lambda *asked: known)  # the controls
    monkeypatch.setattr(preference_step, "ROOM", 1e-6)
    faults = preference_step.preference_step(Settings(tmp_path, quick=True)).faults
    assert [("were predicted" in f, "of a GPU" in f) for f in faults] == [(False, True), (True, False)]


# -- the walk


def test_chunks_write_the_tokens_of_single_steps_in_fewer_calls_and_other_tokens_are_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = walk.walk(Settings(tmp_path, repeats=1, quick=True))
    assert report.faults == []
    rows = {r["columns"]: (r["one by one"], r["an extension"]) for r in report.tables["calls"]}
    assert rows == {6: (62, 48), 1: (57, 8)}  # tokens of the square but for the first row's; new tokens
    assert [r.name.partition(",")[0] for r in report.ratios] == ["one by one / chunks"] * 2 + [
        "4 pictures alone / together"
    ]
    assert "growth of an extension's seconds along the scroll, of their mean, 95 %" in report.facts

    def wrong(self: walk.OneByOne, tokens: torch.Tensor, positions: Sequence[int]) -> torch.Tensor:
        return self.walk.feed(0 * tokens, positions)

    monkeypatch.setattr(walk.OneByOne, "feed", wrong)
    for other in ("crowd", "along"):
        monkeypatch.setattr(walk, other, lambda *_: None)
    assert "other tokens" in walk.walk(Settings(tmp_path, repeats=1, quick=True)).faults[0]


def test_the_line_through_seconds_tells_growth_from_none() -> None:
    noise = 0.01 * np.random.default_rng(0).standard_normal(12)
    low, high = walk.growth(1 + noise)
    assert low < 0 < high < 0.05
    low, high = walk.growth(np.linspace(1, 2, 12) + noise)
    assert 0.6 < low < 2 / 3 < high < 0.75


# -- reports


def test_a_report_that_is_slow_to_open_is_a_fault_and_a_missing_browser_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("without", "with"):
        (tmp_path / folder).mkdir()
    built = {"seconds": 1.5, "peak": 2**21}
    monkeypatch.setattr(pages, "_child", lambda verb, *_: built if verb == "build" else {"picture": "1 x 1"})
    monkeypatch.setattr(pages.chromium, "missing", lambda: "needs Chromium")
    report = pages.pages(Settings(tmp_path / "without", quick=True))
    assert [(r["build"], r["processor s"], r["MiB"]) for r in report.tables["build"]] == [
        ("first", 1.5, 2.0), ("again", 1.5, 2.0),
    ]  # fmt: skip
    assert (report.facts["pictures"], report.facts["opening"]) == (12, "not measured: needs Chromium")
    assert report.faults == []
    monkeypatch.setattr(pages.chromium, "missing", lambda: "")
    monkeypatch.setattr(pages.chromium, "launched", lambda: nullcontext(None))
    monkeypatch.setattr(pages, "opened", lambda _, out, name: {"page": name, "busy s": 4.0 if name == "vote" else 0.5})
    assert pages.pages(Settings(tmp_path / "with", quick=True)).faults == ["vote is busy for 4.0 s"]


# -- the command


def told(monkeypatch: pytest.MonkeyPatch, report: Report, *arguments: str) -> int:
    def fake(settings: Settings) -> Report:
        assert settings.work.is_dir()
        return report

    monkeypatch.setattr(command, "BENCHMARKS", {"fake": fake})
    monkeypatch.setattr(sys, "argv", ["perf", *arguments])
    return command.main()


def test_the_command_prints_and_writes_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report([ratio("a / b", [3.0], [2.0])], {"pictures": 8})
    assert told(monkeypatch, report, "--json", str(tmp_path / "out.json")) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["benchmarks"]["fake"]["ratios"][0]["median"] == 1.5
    assert {"cpu", "threads", "torch", "date", "load average"} <= set(written["machine"])
    assert "1.500" in capsys.readouterr().out


def test_unequal_work_fails_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(monkeypatch, Report(faults=["8 samples against 12"])) == 1
    assert "fake: 8 samples against 12" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("--repeats", "0"), ("--pictures", "2"), ("--only", "nothing"), ("--device", "cuda")]
)
def test_what_cannot_be_measured_is_refused(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as refused:
        told(monkeypatch, Report(), *arguments)
    assert refused.value.code == 2


def test_pictures_that_differ_between_one_worker_and_two_are_a_fault() -> None:
    assert workers.faults({1: {"a": "x"}, 2: {"a": "x"}}) == []
    assert workers.faults({1: {"a": "x"}, 2: {"a": "y"}}) == workers.faults({1: {}, 2: {}}) != []


# -- a step of MAD, one window after the other


def test_mads_windows_one_by_one_attend_to_the_same_canvas_as_all_at_once() -> None:
    cut, size = grid(8, 16, 8, 4), (8, 16)
    states, views = torch.rand(len(cut), 16, 5), torch.rand(len(cut), 5, 8, 8)  # of a layer of half the grid
    forms = [form(cut, size) for form in (Joint, steps.Apart)]
    for text in (None, torch.rand(len(cut), 3, 5)):
        ours, plain = (f.wrap(lambda layer, x, *rest: x.cumsum(1))(None, states, text) for f in forms)
        assert torch.allclose(ours, plain, atol=1e-5)
        assert not torch.allclose(ours, states.cumsum(1), atol=1e-2)  # what windows by themselves would give
    assert torch.allclose(forms[0].merge(views), forms[1].merge(views), atol=1e-6)
    assert torch.equal(*(f.gather(forms[0].merge(views)) for f in forms))
