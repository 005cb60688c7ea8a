"""The suites that ship with ScrollBench: data only, found through the entry points ``scrollbench.suites``."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

miniature = _HERE / "miniature.toml"
miniature_width = _HERE / "miniature-width.toml"
