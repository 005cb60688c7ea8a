"""Options that several verbs share: which suite, which part of it, which store, JSON or not."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import bench
from bench.errors import PrerequisiteError, UsageError
from bench.pipeline.executors.crew import Crew
from bench.reading import shown

if TYPE_CHECKING:
    from bench.store import Store
    from bench.suites.suite import Suite

Retry = Annotated[bool, typer.Option("--retry", help="Try pictures again that failed too often before.")]
StoreAt = Annotated[Path | None, typer.Option("--store", help="Store folder.", envvar="SCROLLBENCH_STORE")]


def opened(root: Path | None) -> Store:
    """The store in a folder; the usual one for None."""
    return bench.Store(root)


ExecutorName = Annotated[
    str | None,
    typer.Option(
        "--executor",
        help="local, processes or ray; processes where a plug-in file takes part, else local.",
        envvar="SCROLLBENCH_EXECUTOR",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]


@dataclass(frozen=True)
class Selection:
    """A resolved suite, the store it lives in, this machine's share of the work, and the device it is done on."""

    suite: Suite
    store: Store
    shard: tuple[int, int] | None
    device: str | None


def _select(
    suite: Annotated[str, typer.Option("--suite", "-s", help="Name of a suite, or a TOML file.")] = "miniature",
    tier: Annotated[
        str | None, typer.Option("--tier", help="miniature: run a suite of tier full on the embedded miniature.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="Only these methods: NAME, NAME:PRESET or FILE.py@NAME. Repeatable."),
    ] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Only these metrics. Repeatable.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A knob: METHOD.KNOB=VALUE. Repeatable.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="That many prompts, spread over the set; 0 for the whole set.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Only these seeds. Repeatable.")] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", help="I/N: this machine's share of the pictures, I from 1 to N.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Where networks run: auto (CUDA, else MPS, else cpu), cpu, cuda:1.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Of all backbones, instead of the suite's: fp32, bf16, fp16.")
    ] = None,
    store: Annotated[Path | None, typer.Option("--store", help="Store folder.", envvar="SCROLLBENCH_STORE")] = None,
) -> Selection:
    overrides = {
        "methods": method,
        "metrics": metric,
        "set": set_,
        "limit": limit,
        "seeds": seed,
        "tier": tier,
        "precision": precision,
    }
    chosen = bench.load_suite(suite, {k: v for k, v in overrides.items() if v or v == 0})
    if device:  # provenance, not identity: the same suite on another machine
        chosen = replace(chosen, backbone_options={**chosen.backbone_options, "device": device})
    return Selection(chosen, bench.Store(store), _shard(shard), device)


def _crew(
    executor: ExecutorName = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Child processes: one for each GPU, and one on a CPU, if not said.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", help="Seconds for a picture, instead of a forecast; then it is lost."),
    ] = None,
    memory: Annotated[
        float | None, typer.Option("--memory", help="GB for a worker's data, instead of its share of the machine's.")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="A Ray cluster's, for --executor ray: HOST:PORT, ray://..., auto.")
    ] = None,
) -> Crew:
    return Crew(executor, workers, timeout, memory, address)


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    if not parts or not 1 <= int(parts[1]) <= int(parts[2]):
        raise UsageError(f"--shard takes I/N with I from 1 to N, e.g. 1/4; got {text!r}")
    return int(parts[1]), int(parts[2])


def selection(verb: Callable[..., None], suite: str = "miniature") -> Callable[..., None]:
    """Give a verb the options that choose a suite, ``suite`` by default; its first argument is a :class:`Selection`.

    One whose second argument is ``crew`` also gets the options that say who does the work.
    """
    own = list(inspect.signature(verb, eval_str=True).parameters.values())[1:]
    options = [
        p.replace(default=suite) if p.name == "suite" else p
        for p in inspect.signature(_select, eval_str=True).parameters.values()
        if p.name not in [mine.name for mine in own]  # a verb may mean something of its own by a name
    ]
    crewed = bool(own) and own[0].name == "crew"
    crew = list(inspect.signature(_crew, eval_str=True).parameters.values()) if crewed else []
    own = own[crewed:]

    @functools.wraps(verb)
    def wrapped(**given: Any) -> None:
        working = [_crew(**{p.name: given.pop(p.name) for p in crew})] if crewed else []
        chosen = _select(**{p.name: given.pop(p.name) for p in options})
        try:
            verb(chosen, *working, **given)
        except PrerequisiteError as error:
            if chosen.suite.tier != "full" or chosen.suite.spec.miniature is None:
                raise
            hint = f"Without them: --tier miniature runs suite {chosen.suite.name} on the embedded miniature."
            raise PrerequisiteError(f"{error}\n{hint}") from error

    taken = sorted(
        (p.replace(kind=p.KEYWORD_ONLY) for p in (*options, *crew, *own)), key=lambda p: p.default is not p.empty
    )  # arguments, which have no default, come first
    wrapped.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in taken}
    del wrapped.__wrapped__  # type: ignore[attr-defined]
    return wrapped


def settings(told: list[str] | None, whose: str) -> dict[str, str]:
    """NAME=VALUE texts of one function's settings. Raises ``UsageError`` on other texts."""
    parts = [re.fullmatch(r"([\w-]+)=(.*)", text) for text in told or []]
    for text, part in zip(told or [], parts):
        if part is None:
            raise UsageError(f"--set of {whose} takes NAME=VALUE, e.g. batch=4; got {shown(text)}")
    return {part[1].replace("-", "_"): part[2] for part in parts if part}
