"""Whatever a sampler does to its process is one failure on record, and the other pictures are made."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from bench.pipeline.executors.children import Children
from bench.pipeline.executors.crew import LOCAL, Crew
from bench.pipeline.generate import RunResult, generate
from bench.pipeline.plan import make_plan
from bench.store import Store
from bench.suites.load import load_suite
from tests.support.small import PLUGINS, picture_ids, write_suite

FAULTS = {  # prompt id: what the sampler does when it is asked for it
    "leaves": "raise SystemExit(0)",
    "ends": "os._exit(0)",
    "aborts": "os.abort()",
    "hangs": "time.sleep(1000)",
    "forks": "os.fork()",
    "seeds": "numpy.random.seed(3)",
    "eats": "numpy.empty(3 * 2**30, numpy.uint8)",
}
HARMLESS = {"fine": "pass", "prints": "print('printed'); os.write(1, b'written')"}
SAID = {
    "leaves": ("crash", "SystemExit: 0"),
    "ends": ("crash", "ended its process with exit code 0"),
    "aborts": ("crash", "ended its process by SIGABRT at"),
    "hangs": ("timeout", "gave no answer within 1 s and was stopped at"),
    "forks": ("crash", "forks the process"),
    "seeds": ("crash", "global generator of numpy.random"),
    "eats": ("oom", "Unable to allocate 3.00 GiB"),
}


def plan_of(folder: Path, store: Store, *prompts: str, before: str = ""):  # type: ignore[no-untyped-def]
    """A plan of one picture for each of the prompts, by a sampler that does what each of them names."""
    lines = "".join(f"    if prompt.id == {i!r}: {what}\n" for i, what in (FAULTS | HARMLESS).items())
    head, doc, rest = PLUGINS.partition('    """Grey noise."""\n')
    write_suite(folder, plugins=f"import os, time, numpy\n{before}\n{head}{doc}{lines}{rest}")
    (folder / "prompts.jsonl").write_text("".join(f'{{"id": "{i}", "text": "a {i}"}}\n' for i in prompts))
    return make_plan(load_suite(folder / "small.toml", {"methods": ["plugins.py@grain"]}), store)


def drawn(folder: Path, *prompts: str, crew: Crew, before: str = "") -> tuple[RunResult, Store]:
    store = Store(folder / "store")
    return generate(plan_of(folder, store, *prompts, before=before), store, crew=crew), store


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, Store]:
    """One run in which everything happens, the good pictures between and after."""
    prompts = ("fine", *FAULTS, "prints")
    return drawn(tmp_path_factory.mktemp("faults"), *prompts, crew=Crew("processes", timeout=1, memory=2))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_sampler_is_one_failure_on_record(fault: str, everything: tuple[RunResult, Store]) -> None:
    result, store = everything
    (failure,) = [f for f in result.failures if f.prompt_id == fault]
    (record,) = [r for r in store.records() if r["kind"] == "failure" and r["recipe"]["prompt_id"] == fault]
    reason, said = SAID[fault]
    assert (failure.reason, record["reason"]) == (reason, reason)
    assert said in failure.message == record["message"]
    if said.endswith(" at"):
        assert "plugins.py:" in failure.message


def test_the_other_pictures_are_made_as_if_nothing_had_happened(
    everything: tuple[RunResult, Store], tmp_path: Path
) -> None:
    result, store = everything
    assert (result.made, result.failed, result.complete) == (len(HARMLESS), len(FAULTS), False)
    undisturbed = drawn(tmp_path, *HARMLESS, crew=LOCAL)[1]
    assert picture_ids(store) == picture_ids(undisturbed)
    assert store.verify().ok


def test_what_never_ends_well_is_left_alone_after_three_runs(everything: tuple[RunResult, Store]) -> None:
    store = everything[1]
    bad = next(r for r in store.records() if r["kind"] == "failure" and r["recipe"]["prompt_id"] == "ends")
    assert store.ledger().attempts(bad["recipe_id"]) == 1
    for attempt in (2, 3):
        store.append({**bad, "attempt": attempt})
    plan = plan_of(store.root.parent, store, "fine", *FAULTS, "prints")
    assert [j.prompt.id for j in plan.quarantined] == ["ends"]
    assert sorted(j.prompt.id for j in plan.jobs) == sorted(set(FAULTS) - {"ends"})


# -- each protection taken out


def test_in_this_process_such_a_sampler_ends_everything_with_exit_code_0(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        with suppress(BaseException):
            drawn(tmp_path, "fine", "ends", crew=LOCAL)
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not [r for r in Store(tmp_path / "store").records() if r["kind"] == "failure"]


def test_in_this_process_what_a_sampler_prints_is_among_the_data(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    drawn(tmp_path / "local", "prints", crew=LOCAL)
    assert {"printed", "written"} <= set(capfd.readouterr().out.split())
    drawn(tmp_path / "apart", "prints", crew=Crew("processes"))
    out, err = capfd.readouterr()
    assert (out, {"printed", "written"} - set(err.split())) == ("", set())


def test_without_limits_and_counts_the_same_samplers_are_slow_eat_and_fork_unseen(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    before = f"""import bench.pipeline.isolation, threading
bench.pipeline.isolation.forks = lambda: 0
def wait(seconds):
    while not os.path.exists({str(flag)!r}):
        threading.Event().wait(0.05)
time.sleep = wait
"""
    timer = threading.Timer(2.5, flag.touch)
    timer.start()
    result, _ = drawn(
        tmp_path, "hangs", "eats", "forks", crew=Crew("processes", timeout=1e6, memory=1e3), before=before
    )
    timer.join()
    assert (result.made, result.failures) == (3, ())


# -- the children themselves


DRIVER = """
import sys, time
from bench.pipeline.executors import children
children.START = children.START.replace("main; ", sys.argv[1])
with children.Children([time.sleep]) as crew:
    crew._children[0].give(1000, 1e6)
    print(crew._children[0]._process.pid, flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("watched", [True, False])
def test_a_child_ends_with_a_parent_that_was_killed_if_it_watches_it(watched: bool) -> None:
    code = "main; " if watched else "main; import bench.pipeline.executors.worker as w; w.WATCH = 1e6; "
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, code], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    child = psutil.Process(int(driver.stdout.readline()))
    _until(lambda: child.num_threads() > 1)
    time.sleep(0.3)  # the item has begun
    driver.kill()
    driver.wait()
    try:
        child.wait(timeout=30 if watched else 2.5)
        assert watched
    except psutil.TimeoutExpired:
        assert not watched
        child.kill()


def _until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.05)


def test_a_worker_killed_from_outside_is_no_fault_of_the_sampler_and_tried_again(tmp_path: Path) -> None:
    once = f"import pathlib, signal\nif not pathlib.Path({str(tmp_path / 'once')!r}).exists():\n"
    once += f"    FIRST = pathlib.Path({str(tmp_path / 'once')!r})\nelse:\n    FIRST = None\n"
    body = "FIRST and (FIRST.touch(), os.kill(os.getpid(), signal.SIGKILL))"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HARMLESS, "fine", body)
        result, store = drawn(tmp_path, "fine", crew=Crew("processes"), before=once)
    assert (result.made, result.failed) == (1, 0)
    (failure,) = [r for r in store.records() if r["kind"] == "failure"]
    assert "ended by SIGKILL: by somebody" in failure["message"]


def double(x: int) -> int:
    return 2 * x


def test_children_answer_every_item_and_pass_on_what_is_raised() -> None:
    with Children([double, double]) as crew:
        assert sorted(crew.work(range(5), lambda _: 60)) == [(i, 2 * i) for i in range(5)]
        with pytest.raises(RuntimeError, match=r"in a worker:\n(.|\n)*TypeError"):
            list(crew.work([None], lambda _: 60))
