"""Analysis: what follows from scores. Boards, comparisons, gates, published claims."""

from typing import TYPE_CHECKING

from bench.lazy import rooms

if TYPE_CHECKING:
    from bench.analysis import board as board
    from bench.analysis import calibrate as calibrate
    from bench.analysis import calibrate_gsd as calibrate_gsd
    from bench.analysis import claims as claims
    from bench.analysis import columns as columns
    from bench.analysis import compare as compare
    from bench.analysis import gate as gate
    from bench.analysis import pin as pin
    from bench.analysis import ranks as ranks
    from bench.analysis import readings as readings
    from bench.analysis import reproduce as reproduce
    from bench.analysis import samplers as samplers
    from bench.analysis import speed as speed

__getattr__ = rooms(__name__)
