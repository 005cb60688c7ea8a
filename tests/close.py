"""How far apart two computations of one number may lie: tolerances that follow from the arithmetic, with the reason.

Two routes to the same sum (another batch shape, number of threads, processor, or code by hand) add its products in
another order, with or without fused multiplications, and round each time. A rounding is off by at most u of what is
rounded, so by about u / sqrt(3); those of n products after each other add up like a random walk of n such steps (Higham
and Mary, SIAM J. Sci. Comput. 41, 2019, have the theorem; the worst case is n u and does not occur). Two routes that
round independently differ by sqrt(2) times as much. Five deviations of that are

    5 sqrt(2 / 3) sqrt(n) u size = 4 sqrt(n) u size,

with ``size`` the magnitude of what is summed, not of the sum: a difference of large numbers is as uncertain as they
are. Layers one after the other are one long walk as long as none of them enlarges what came before; a factor behind
them (guidance, a logit scale) belongs to ``size``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}


def products(*networks: Any) -> int:
    """How many products are summed on the way through networks: the fan-in of every layer, one after the other.

    Layers beside each other count too, so it is rather too many. 1 for what has no layers.
    """
    return sum(p[0].numel() for net in networks for p in net.parameters() if p.ndim > 1) or 1


def rounding(size: float, terms: int, dtype: str = "float32") -> float:
    """The tolerance above, in the unit of ``size``, for sums of ``terms`` products in all."""
    return 4 * terms**0.5 * UNIT[dtype] * size


def sampled(backbone: Any, steps: int, guidance: float = 1.0) -> float:
    """The tolerance of latents and pictures, both of a size of about 1, that two routes make in so many steps.

    Every step goes through the network once, the decoder comes on top, and u + g (c - u) enlarges what is rounded in
    u and c by |1 - g| + g.
    """
    return rounding(abs(1 - guidance) + guidance, steps * products(backbone.network) + products(backbone.vae))


def near(expected: Any, terms: int, size: float | None = None, dtype: str = "float32") -> Any:
    """``pytest.approx`` with that tolerance and no other; ``size`` is the largest number expected if not given."""
    if size is None:
        size = float(np.abs(np.asarray(list(expected.values()) if isinstance(expected, dict) else expected)).max())
    return pytest.approx(expected, rel=0, abs=rounding(size, terms, dtype))


def relative(expected: Any, rel: float) -> Any:
    """``pytest.approx`` of a relative tolerance alone: its own absolute one, 1e-12, decides where numbers are small."""
    return pytest.approx(expected, rel=rel, abs=0)
