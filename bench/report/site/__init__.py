"""A report as a folder of pages that opens from disk: numbers, pictures, and the folder itself."""

from typing import TYPE_CHECKING

from bench.lazy import rooms

if TYPE_CHECKING:
    from bench.report.site import numbers as numbers
    from bench.report.site import pictures as pictures
    from bench.report.site import write as write

__getattr__ = rooms(__name__)
