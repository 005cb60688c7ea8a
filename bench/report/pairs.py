"""A sheet of preferences: pairs side by side, the better picture left, with their scores."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report.contact import FAINT, INK, MARGIN, PAPER, SOFT, write_line
from bench.report.wording import number
from bench.store.commit import write_file

if TYPE_CHECKING:
    from methods.training.preferences import Pair, Preferences

PAIRS, CELL, GAP, LINE = 12, 760, 20, 26  # pairs on a sheet; px


def spread(pairs: Sequence[Pair], count: int = PAIRS) -> list[Pair]:
    """Pairs from the largest gap to the smallest, evenly."""
    ordered = sorted(pairs, key=lambda p: (-p.gap, p.prompt_id, p.winner))
    if len(ordered) <= count:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / max(1, count - 1))] for i in range(count)]


def pair_sheet(preferences: Preferences, path: Path, count: int = PAIRS) -> Path:
    """Draw at most so many pairs, from the clearest to the closest.

    Returns:
        ``path``, a PNG, replaced atomically.

    Raises:
        UsageError: a picture that is missing or not the one that was compared.
    """
    from PIL import Image, ImageDraw

    pairs = spread(preferences.pairs, count)
    tall = [round(p.height * CELL / p.width) for p in pairs]
    width = 2 * MARGIN + 2 * CELL + GAP
    page = Image.new("RGB", (width, 2 * MARGIN + 40 + sum(h + 3 * LINE for h in tall)), PAPER)
    pen, card = ImageDraw.Draw(page), preferences.card
    title = f"{len(preferences.pairs)} pairs of {card['suite']} by {card['score']}, the better one left"
    write_line(pen, MARGIN, MARGIN - 8, title, 24, INK, width - 2 * MARGIN)
    y = MARGIN + 40
    for pair, high in zip(pairs, tall):
        pen.line((MARGIN, y, width - MARGIN, y), fill=FAINT)
        write_line(pen, MARGIN, y + 5, pair.prompt, 15, INK, width - 2 * MARGIN)
        sides = (
            (MARGIN, pair.winner, pair.winner_method, pair.winner_seed, pair.winner_score),
            (MARGIN + CELL + GAP, pair.loser, pair.loser_method, pair.loser_seed, pair.loser_score),
        )
        for x, image, method, seed, score in sides:
            shown = Image.fromarray(preferences.picture(image))
            grown = Image.Resampling.NEAREST if pair.width < CELL else Image.Resampling.LANCZOS
            page.paste(shown.resize((CELL, high), grown), (x, y + LINE))
            told = f"{number(score)}  ·  {method}  ·  seed {seed}"
            write_line(pen, x, y + LINE + high + 3, told, 14, SOFT, CELL)
        y += high + 3 * LINE
    kept = BytesIO()
    page.save(kept, format="PNG", optimize=True)
    write_file(path, kept.getvalue())
    return path
