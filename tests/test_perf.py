"""The speed benchmarks: both sides do the same work, ratios are what they say, and unequal work is found out."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are not part of the package

from bench.extractors.lpips import Lpips
from bench.types import Canvas
from benchmarks import __main__ as command
from benchmarks import checkpoint, overhead, sampling, scoring, sharing
from benchmarks.sampling import Drawn, Sampler, Task, faults, watched
from benchmarks.timing import Report, Settings, counted, ratio, rounds, stopwatch

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


@pytest.mark.parametrize("arguments", [("--repeats", "0"), ("--pictures", "2"), ("--only", "nothing")])
def test_what_cannot_be_measured_is_refused(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as refused:
        told(monkeypatch, Report(), *arguments)
    assert refused.value.code == 2
