"""Anybody's table of scores: the comparisons and gates of suites, without a suite or a store."""

from typing import TYPE_CHECKING

from bench.lazy import rooms

if TYPE_CHECKING:
    from bench.analysis.scores import judge as judge
    from bench.analysis.scores import table as table

__getattr__ = rooms(__name__)
