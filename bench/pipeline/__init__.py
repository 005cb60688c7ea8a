"""The pipeline: plan, generate, score; pictures taken in from elsewhere; what it will cost."""

from typing import TYPE_CHECKING

from bench.lazy import rooms

if TYPE_CHECKING:
    from bench.pipeline import adopt as adopt
    from bench.pipeline import forecast as forecast
    from bench.pipeline import generate as generate
    from bench.pipeline import plan as plan
    from bench.pipeline import references as references
    from bench.pipeline import run as run
    from bench.pipeline import score as score

__getattr__ = rooms(__name__)
