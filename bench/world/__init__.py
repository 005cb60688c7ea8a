"""ScrollWorld, the miniature: pictures with a known truth, and networks trained on them."""

from typing import TYPE_CHECKING

from bench.lazy import rooms

if TYPE_CHECKING:
    from bench.world import draw as draw
    from bench.world import obedience as obedience
    from bench.world import recipes as recipes
    from bench.world import validate as validate
    from bench.world import validity_page as validity_page
    from bench.world import verify as verify

__getattr__ = rooms(__name__)
