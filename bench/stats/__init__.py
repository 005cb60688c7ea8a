"""Statistics of samples and of sets of pictures; reads no store."""

from typing import TYPE_CHECKING

from bench.lazy import rooms

if TYPE_CHECKING:
    from bench.stats import means as means
    from bench.stats import sets as sets

__getattr__ = rooms(__name__)
