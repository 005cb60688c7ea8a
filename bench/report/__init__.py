"""Reports: how results are said. Terminal, Markdown, CSV, LaTeX, HTML, contact sheets."""

from typing import TYPE_CHECKING

from bench.lazy import rooms

if TYPE_CHECKING:
    from bench.report import compare as compare
    from bench.report import contact as contact
    from bench.report import curves as curves
    from bench.report import export as export
    from bench.report import figure as figure
    from bench.report import gate as gate
    from bench.report import page as page
    from bench.report import site as site
    from bench.report import terminal as terminal
    from bench.report import wording as wording

__getattr__ = rooms(__name__)
