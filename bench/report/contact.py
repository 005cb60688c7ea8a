"""The contact sheet of a suite: a page of its pictures, prompts down, methods across, with their scores."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.analysis.columns import text
from bench.errors import StoreError
from bench.prompts.sets import spread
from bench.report.wording import number
from bench.store.index import query
from bench.store.raster import STRIP, Raster

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

    from bench.store import Store
    from bench.suites.suite import Suite

ROWS = 8  # prompts on a sheet
MARGIN, GAP, BAND = 40, 20, 28  # px: around the page, between columns, between prompts
PAPER, INK, SOFT, FAINT, TINT = (252, 251, 248), (28, 28, 30), (110, 110, 114), (214, 212, 206), (243, 241, 234)
CAPTION = ("object-count", "gsd-dino", "clip-score")  # shown first under a picture, where the suite has them


@dataclass(frozen=True)
class Tile:
    """One cell of the sheet: a picture, or why there is none."""

    image_id: str | None
    note: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Strip:
    """One prompt in one part of a suite, with the shots of all methods."""

    part: str
    width: int
    height: int
    prompt: str
    shots: dict[str, Tile]


def sheet_name(suite: Suite) -> str:
    """The file a suite's contact sheet is kept in; a suite of tier full has another one on the miniature."""
    return f"{suite.name}{'-miniature' if suite.shrunk else ''}-contact.png"


def contact_sheet(store: Store, suite: Suite, path: Path) -> Path:
    """Draw at most eight prompts of a suite, spread over its parts, at the first seed of each.

    Small pictures are enlarged without smoothing by a whole factor, large ones are reduced.

    Returns:
        ``path``, a PNG, replaced atomically.

    Raises:
        StoreError: there is no index, or it knows nothing of the suite.
    """
    strips = _strips(store, suite)
    if not strips:
        raise StoreError(
            f"nothing is planned of suite {suite.ref} in {store.root}; `scrollbench run {suite.command}` starts it"
        )
    labels = [m.label for m in suite.methods]
    controls = {
        row[0]
        for row in query(store, f"select method from member where control and suite_digest = {text(suite.digest)}")[1]
    }
    methods = sorted(
        {m for s in strips for m in s.shots}, key=lambda m: (m in controls, labels.index(m) if m in labels else 0, m)
    )
    sheet = _Sheet(methods, controls, strips)
    title = f"{suite.ref}  ·  {suite.title}" if suite.title else suite.ref
    page = sheet.draw(title, f"tier {suite.tier}  ·  suite {suite.digest[:8]}", store)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temp = tempfile.mkstemp(dir=path.parent, suffix=".png")
    with os.fdopen(handle, "wb") as f:
        page.save(f, format="PNG", optimize=True)
    os.chmod(temp, 0o644)
    os.replace(temp, path)
    return path


def _strips(store: Store, suite: Suite) -> list[Strip]:
    where = f"where suite_digest = {text(suite.digest)}"
    cells = query(store, f"""
        select part, prompt_id, method, arg_min(image_id, seed), arg_min(recipe_id, seed), arg_min(flags, seed),
               (select arg_max(reason, printf('%09d %s', coalesce(attempt, 0), reason)) from failure f
                where f.recipe_id = arg_min(p.recipe_id, p.seed))
        from picture p {where} group by part, prompt_id, method""")[1]  # fmt: skip
    scored = query(
        store, f"select recipe_id, metric, avg(value) from observation {where} and protocol <> 'cost' group by all"
    )[1]
    scores: dict[str, dict[str, float]] = {}
    for recipe_id, name, value in scored:
        if value is not None:
            scores.setdefault(recipe_id, {})[name] = value
    shots: dict[tuple[str, str], dict[str, Tile]] = {}
    for part, prompt_id, method, image_id, recipe_id, flags, reason in cells:
        shots.setdefault((part, prompt_id), {})[method] = Tile(
            image_id, _note(image_id, flags, reason), scores.get(recipe_id, {})
        )
    few = max(1, ROWS // len(suite.parts))
    return [
        Strip(part.name, part.canvas.width, part.canvas.height, prompt.text, shots[part.name, prompt.id])
        for part in suite.parts
        for prompt in spread(tuple(p for p in part.prompts.prompts if (part.name, p.id) in shots), few)
    ]


def _note(image_id: str | None, flags: list[str] | None, reason: str | None) -> str:
    if image_id is None:
        return f"failed: {reason}" if reason else "not made yet"
    return ", ".join(flags or ())


class _Sheet:
    """Layout and drawing. Sizes are in pixels; text is drawn in Pillow's own font."""

    def __init__(self, methods: list[str], controls: set[str], strips: list[Strip]) -> None:
        self.methods, self.controls, self.strips = methods, controls, strips
        target = min(768, max(320, 2400 // len(methods)))
        widest = max(s.width for s in strips)
        self.scale = max(1, round(target / widest)) if widest <= target else target / widest
        self.cell = round(widest * self.scale)
        self.size = 17 if self.cell >= 300 else 14
        self.width = 2 * MARGIN + len(methods) * self.cell + (len(methods) - 1) * GAP

    def draw(self, title: str, subtitle: str, store: Store) -> Image.Image:
        """The whole page."""
        from PIL import Image, ImageDraw

        head = MARGIN + 100
        height = head + sum(self.tall(s) for s in self.strips) + MARGIN
        page = Image.new("RGB", (self.width, height), PAPER)
        pen = ImageDraw.Draw(page)
        first = next((i for i, m in enumerate(self.methods) if m in self.controls), None)
        if first is not None:
            pen.rectangle(
                (self.x(first) - GAP // 2, head - 46, self.width - MARGIN + GAP // 2, height - MARGIN + 8), fill=TINT
            )
        write_line(pen, MARGIN, MARGIN - 8, title, 28, INK, self.width - 2 * MARGIN)
        write_line(pen, MARGIN, MARGIN + 30, subtitle, self.size, SOFT, self.width - 2 * MARGIN)
        for i, method in enumerate(self.methods):
            mark = "  control" if method in self.controls else ""
            x = write_line(pen, self.x(i), head - 36, method, self.size + 4, INK, self.cell)
            write_line(pen, x, head - 33, mark, self.size, SOFT, self.x(i) + self.cell - x)
        y = head
        for strip in self.strips:
            self.strip(page, pen, strip, y, store)
            y += self.tall(strip)
        return page

    def x(self, column: int) -> int:
        return MARGIN + column * (self.cell + GAP)

    def tall(self, strip: Strip) -> int:
        return BAND + 2 * (self.size + 12) + round(strip.height * self.scale)

    def strip(self, page: Image.Image, pen: ImageDraw.ImageDraw, strip: Strip, y: int, store: Store) -> None:
        """A prompt, its pictures and their captions."""
        pen.line((MARGIN, y, self.width - MARGIN, y), fill=FAINT)
        several = len({s.part for s in self.strips}) > 1
        prompt = f"{strip.part}   {strip.prompt}" if several else strip.prompt
        write_line(pen, MARGIN, y + 10, prompt, self.size + 2, INK, self.width - 2 * MARGIN)
        top = y + self.size + 22
        wide, high = round(strip.width * self.scale), round(strip.height * self.scale)
        for i, method in enumerate(self.methods):
            x, shot = self.x(i), strip.shots.get(method)
            if shot is None:
                continue
            if shot.image_id is None:
                pen.rectangle((x, top, x + wide - 1, top + high - 1), outline=FAINT)
                write_line(pen, x + 12, top + (high - self.size) // 2 - 3, shot.note, self.size, SOFT, wide - 24)
                continue
            page.paste(self.picture(store, shot.image_id, wide, high), (x, top))
            write_line(pen, x, top + high + 6, self.caption(shot), self.size - 3, SOFT, self.cell)

    def picture(self, store: Store, image_id: str, wide: int, high: int) -> Image.Image:
        from PIL import Image

        pixels = store.open_image(image_id)
        if not isinstance(pixels, np.ndarray):
            return reduced(pixels, wide, high)
        image = Image.fromarray(pixels)
        enlarged = self.scale >= 1
        return image.resize((wide, high), Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)

    def caption(self, shot: Tile) -> str:
        names = sorted(shot.scores, key=lambda n: (CAPTION.index(n) if n in CAPTION else len(CAPTION), n))
        return "  ·  ".join([f"{n} {number(shot.scores[n])}" for n in names[:3]] + ([shot.note] if shot.note else []))


def write_line(pen: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int, fill: Any, room: float) -> float:
    """Write a line that fits in ``room`` px, cut with an ellipsis; returns where it ends."""
    font = _font(size)
    if font.getlength(text) > room:
        while text and font.getlength(text + "…") > room:
            text = text[:-1]
        text = text.rstrip() + "…"
    pen.text((x, y), text, font=font, fill=fill)
    return x + font.getlength(text)


def reduced(pixels: Raster, wide: int, high: int) -> Image.Image:
    """A picture on disk at a smaller size: as Pillow resizes, first along its longer side, here a part at a time."""
    from PIL import Image

    filter, (height, width, _) = Image.Resampling.LANCZOS, pixels.shape
    if width >= height:
        narrow = Image.new("RGB", (wide, height))
        for y in range(0, height, STRIP):
            part = Image.fromarray(pixels[y : y + STRIP, :])
            narrow.paste(part.resize((wide, part.height), filter), (0, y))
    else:
        narrow = Image.new("RGB", (width, high))
        for x in range(0, width, STRIP):
            part = Image.fromarray(pixels[:, x : x + STRIP])
            narrow.paste(part.resize((part.width, high), filter), (x, 0))
    return narrow.resize((wide, high), filter)


def _font(size: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise StoreError(
            "Pillow was built without FreeType and cannot draw text; install the official wheel: pip install pillow"
        )
    return font
