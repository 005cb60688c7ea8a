"""Suites: which prompts on which canvases, by which methods, measured how."""

from typing import TYPE_CHECKING

from bench.lazy import rooms
from bench.suites.load import load_suite
from bench.suites.suite import Suite

if TYPE_CHECKING:
    from bench.suites import natives as natives

__all__ = ["Suite", "load_suite"]
__getattr__ = rooms(__name__)
