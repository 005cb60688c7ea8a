"""Random numbers in the steps of a scheduler: from the picture's own noise, or not at all.

Many schedulers draw in ``step`` (DDPM, ancestral Euler, LCM, the SDE solvers), from a global generator where they are
given none. Here every request for random numbers inside a step is met: no table says which schedulers draw.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bench.errors import UsageError

NORMAL = (torch.randn, torch.randn_like)
OTHERS = (
    torch.rand, torch.rand_like, torch.randint, torch.randint_like, torch.randperm, torch.normal, torch.bernoulli,
    torch.multinomial, torch.poisson, torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.random_,
    torch.Tensor.bernoulli_, torch.Tensor.exponential_, torch.Tensor.cauchy_, torch.Tensor.log_normal_,
    torch.Tensor.geometric_, torch.Tensor.multinomial, torch.Tensor.bernoulli,
)  # fmt: skip

Numbers = Callable[[tuple[int, ...]], torch.Tensor]


class DrawsError(UsageError):
    """A scheduler asked for random numbers where it has none to draw from."""


class Drawing(TorchFunctionMode):
    """While entered, normal numbers come from ``numbers``; a request that names a generator is the caller's own affair.

    Args:
        who: the scheduler, for errors.
        numbers: shape -> standard normal float32 CPU tensor; None where nothing may be drawn.
    """

    def __init__(self, who: str, numbers: Numbers | None) -> None:
        super().__init__()
        self.who, self.numbers = who, numbers

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every torch function called inside comes by here."""
        kwargs = kwargs or {}
        if func not in (*NORMAL, *OTHERS) or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        if self.numbers is None or func in OTHERS:
            raise DrawsError(
                f"{self.who} draws random numbers in its steps, from a generator that all share: one recipe would give "
                f"another picture each time. Use the backbone option sampler=ddim, or a checkpoint whose scheduler "
                f"config names one that does not draw (DDIM, Euler, PNDM, DPM-Solver++, UniPC); a method that steps "
                f"the whole canvas at once may hand it noise by methods.sampling.keyed"
            )
        like = args[0] if func is torch.randn_like else None
        size = like.shape if like is not None else _size(args, kwargs)
        dtype = kwargs.get("dtype") or (torch.get_default_dtype() if like is None else like.dtype)
        device = kwargs.get("device") or ("cpu" if like is None else like.device)
        return self.numbers(tuple(size)).to(device, dtype)


def _size(args: Any, kwargs: Any) -> Any:
    """The shape that ``torch.randn`` was asked for: a sequence, or numbers one by one."""
    size = kwargs.get("size", args)
    return size[0] if len(size) == 1 and not isinstance(size[0], int) else size


@cache
def watched(cls: type[Any]) -> type[Any]:
    """The same scheduler class, of the same name, whose ``step`` draws from the instance's ``numbers`` alone."""
    plain: Any = cls.step

    @wraps(plain)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        with Drawing(cls.__name__, self.numbers):
            return plain(self, *args, **kwargs)

    space = {"step": step, "numbers": None, "__module__": cls.__module__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), space)
