"""Extractors: the networks that metrics look through, by name or as ``ROLE@FOLDER``. Free of torch until ``load``."""

from typing import TYPE_CHECKING

from bench.extractors.catalogue import DEFAULTS, NAMES, ROLES, Spec, default, names, role
from bench.extractors.loading import load
from bench.extractors.locate import card, find, lpips_heads
from bench.extractors.protocol import Extractor
from bench.lazy import rooms

if TYPE_CHECKING:
    from bench.extractors import weights as weights

__all__ = [
    "DEFAULTS",
    "NAMES",
    "ROLES",
    "Extractor",
    "Spec",
    "card",
    "default",
    "find",
    "load",
    "lpips_heads",
    "names",
    "role",
]
__getattr__ = rooms(__name__)
