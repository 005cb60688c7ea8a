"""Prompt sets: reading and choosing, linting, cards."""

from typing import TYPE_CHECKING

from bench.lazy import rooms
from bench.prompts.sets import PromptSet, load_prompts

if TYPE_CHECKING:
    from bench.prompts import adopt as adopt
    from bench.prompts import card as card
    from bench.prompts import lint as lint

__all__ = ["PromptSet", "load_prompts"]
__getattr__ = rooms(__name__)
