"""Around a sampler's call: what it leaves behind in the process is found and put back.

The **global generators** of torch, numpy and Python: a sampler that draws from one, or seeds one, makes another picture
of the same recipe next time. Drawing that comes to nothing (a network's first numbers, which its weights then replace)
cannot be told from drawing that decides pixels, so both count; code that must draw puts the state back itself
(``torch.random.fork_rng``). **Settings** of the arithmetic, which would reach other samplers' pictures. **Copies** of
the process (``os.fork``): one that comes back would go on with the work beside the first, and ends here.

Costs well under a millisecond a call. Functions that a sampler replaces in modules or classes are not looked for: that
takes a process of its own.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np


class BrokenRule(RuntimeError):
    """A sampler did what no sampler may: the same call would do it again."""


@dataclass
class Traces:
    """What a call left behind, by name: ``drawn`` global generators (``torch``, ``numpy.random``, ``random``, ...) and
    ``changed`` settings (``torch grad mode``, ...), and whether it ``forked``. Complete when the block ends."""

    drawn: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    forked: bool = False


FORKED = (
    "forks the process, whose threads and networks no copy can use: start another program by subprocess, or workers by "
    "multiprocessing.get_context('spawn')"
)
_forks = 0


def forks() -> int:
    """How often this process has forked."""
    return _forks


def _forked() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_forked)


def touched(drawn: list[str]) -> str:
    """What to tell the author of a sampler that drew from these global generators."""
    return (
        f"draws from, or seeds, the global generator of {', '.join(drawn)}: the same recipe would give another picture "
        f"next time. Draw by noise.normal(stream, shape) or noise.generator(stream) instead; build networks inside "
        f"torch.random.fork_rng()"
    )


@contextmanager
def isolated() -> Iterator[Traces]:
    """Watch the block; when it ends, in whatever way, generators and settings are as they were."""
    traces = Traces()
    generators, settings = _read(_generators()), _read(_settings())
    me, before = os.getpid(), forks()
    try:
        yield traces
    finally:
        if os.getpid() != me:
            os._exit(0)
        traces.forked = forks() > before
        table = _generators()
        if "torch" in table:  # where it was imported just now, it began as every generator does
            generators.setdefault("torch", sys.modules["torch"].Generator().get_state().numpy().tobytes())
        traces.drawn += _put_back(table, generators)
        traces.changed += _put_back(_settings(), settings)


# A thing that has a state: how to read it, as something that compares, and how to set it to what was read.
State = tuple[Callable[[], Any], Callable[[Any], Any]]


def _read(table: dict[str, State]) -> dict[str, Any]:
    return {name: get() for name, (get, _) in table.items()}


def _put_back(table: dict[str, State], before: dict[str, Any]) -> list[str]:
    """Set what differs from before as it was; the names."""
    changed = [name for name, value in _read(table).items() if value != before.get(name, value)]
    for name in changed:
        table[name][1](before[name])
    return changed


def _generators() -> dict[str, State]:
    found: dict[str, State] = {"numpy.random": (_numpy_state, _set_numpy), "random": (random.getstate, random.setstate)}
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "Generator"):  # not imported, or only begun
        return found
    known = {"torch": torch.default_generator}
    if torch.cuda.is_initialized():
        known |= {f"torch.cuda:{i}": g for i, g in enumerate(torch.cuda.default_generators)}
    if torch.backends.mps.is_available():
        known["torch.mps"] = torch.mps._get_default_mps_generator()

    def state(generator: Any) -> State:
        get = lambda: generator.get_state().numpy().tobytes()  # noqa: E731
        return get, lambda kept: generator.set_state(torch.frombuffer(bytearray(kept), dtype=torch.uint8))

    return found | {name: state(generator) for name, generator in known.items()}


def _numpy_state() -> tuple[Any, ...]:
    name, key, *rest = np.random.get_state()  # noqa: NPY002
    return (name, np.asarray(key).tobytes(), *rest)


def _set_numpy(state: tuple[Any, ...]) -> None:
    name, key, *rest = state
    np.random.set_state((name, np.frombuffer(key, dtype=np.uint32), *rest))  # noqa: NPY002


def _settings() -> dict[str, State]:
    found: dict[str, State] = {
        "numpy error state": (np.geterr, lambda kept: np.seterr(**kept)),
        "working directory": (os.getcwd, os.chdir),
    }
    torch = sys.modules.get("torch")
    return found if torch is None or not hasattr(torch, "Generator") else found | _torch_settings(torch)


@cache
def _torch_settings(torch: Any) -> dict[str, State]:
    found: dict[str, State] = {
        "torch grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
        "torch default dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "torch default device": (  # None is the CPU, and no detour of every call
            lambda: None if torch.get_default_device().type == "cpu" else torch.get_default_device(),
            torch.set_default_device,
        ),
        "torch threads": (torch.get_num_threads, torch.set_num_threads),
        "torch deterministic algorithms": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
        "torch hooks on all modules": (lambda: _hooks(torch), lambda kept: _set_hooks(torch, kept)),
    }  # fmt: skip
    for device in ("cpu", "cuda"):
        found[f"torch autocast on {device}"] = _autocast(torch, device)
    cuda = torch.backends.cuda
    for place, owner, names in (
        ("cudnn", torch.backends.cudnn, ("enabled", "benchmark", "deterministic", "allow_tf32")),
        ("cuda.matmul", cuda.matmul, ("allow_tf32", "allow_fp16_reduced_precision_reduction",
                                      "allow_bf16_reduced_precision_reduction")),
    ):  # fmt: skip
        found |= {f"torch.backends.{place}.{name}": _attribute(owner, name) for name in names}
    get, put = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    found["torch matmul precision"] = _told(get), put
    for kernel in ("flash", "mem_efficient", "math", "cudnn"):
        with suppress(AttributeError):
            get, put = getattr(cuda, f"{kernel}_sdp_enabled"), getattr(cuda, f"enable_{kernel}_sdp")
            found[f"torch attention kernel {kernel}"] = (get, put)
    return found


def _autocast(torch: Any, device: str) -> State:
    def get() -> tuple[Any, ...]:
        return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def put(kept: tuple[Any, ...]) -> None:
        torch.set_autocast_enabled(device, kept[0])
        torch.set_autocast_dtype(device, kept[1])

    return get, put


def _attribute(owner: Any, name: str) -> State:
    return _told(lambda: getattr(owner, name)), lambda kept: setattr(owner, name, kept)


def _told(get: Callable[[], Any]) -> Callable[[], Any]:
    def read() -> Any:
        try:
            return get()
        except RuntimeError:  # torch refuses to say once TF32 was set in both of its ways
            return None

    return read


HOOKS = tuple(f"_global_{kind}_hooks" for kind in ("forward", "forward_pre", "backward", "backward_pre"))


def _hooks(torch: Any) -> dict[str, dict[Any, Any]]:
    return {name: dict(getattr(torch.nn.modules.module, name, ())) for name in HOOKS}


def _set_hooks(torch: Any, kept: dict[str, dict[Any, Any]]) -> None:
    for name, hooks in kept.items():
        space = getattr(torch.nn.modules.module, name, {})
        space.clear()
        space.update(hooks)
