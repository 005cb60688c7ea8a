"""Pictures with captions to train on: of which canvases they are made, and drawn from a generator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from bench.errors import UsageError
from bench.ids import digest, file_digest
from bench.reading import read_text, refuse
from bench.store.pictures import picture_files, read_head, read_picture


class Kind(NamedTuple):
    """A kind of canvas: its size in px, how many times smaller a side its small picture is, how often it comes."""

    width: int
    height: int
    ratio: int
    share: float = 1.0


Key = tuple[int, ...]  # names one example of a kind


class Pictures(Protocol):
    """Where a training draws from.

    Attributes:
        about: what they are, for the card.
        identity: names their content.
        few: whether examples come again so often that it pays to keep what is made of them.
        fresh: whether there are examples that no training draws.
    """

    about: str
    identity: str
    few: bool
    fresh: bool

    def kinds(self, side: int, ratio: int) -> tuple[Kind, ...]:
        """The canvases to train on, for squares of ``side`` px and a small picture ``ratio`` times smaller.

        Raises:
            UsageError: there are none.
        """
        ...

    def draw(self, kind: Kind, rng: np.random.Generator, fresh: bool = False) -> Key:
        """An example; ``fresh``: such as no training draws."""
        ...

    def look(self, kind: Kind, key: Key) -> tuple[np.ndarray, str]:
        """Its picture, uint8 (height, width, 3), and its caption."""
        ...

    def scrolls(self, side: int, unit: int, long: int) -> Scrolls:
        """The same as whole pictures: a short side of ``side`` px, a longer one of more than ``long``, in ``unit``s.

        Raises:
            UsageError: there are none.
        """
        ...


class Scrolls(Protocol):
    """Where a training on whole pictures draws from.

    Attributes:
        about: what they are, for the card.
        identity: names their content.
        fresh: whether there are examples that no training draws.
        kinds: their canvases; a canvas's ``ratio`` is 1.
    """

    about: str
    identity: str
    fresh: bool
    kinds: tuple[Kind, ...]

    def draw(self, kind: Kind, rng: np.random.Generator, fresh: bool = False) -> Key:
        """An example; ``fresh``: such as no training draws."""
        ...

    def look(self, kind: Kind, key: Key) -> tuple[np.ndarray, str]:
        """Its picture, uint8 (height, width, 3), and its caption."""
        ...


class Folder:
    """The pictures of a folder and its subfolders, each with its caption in a ``.txt`` of the same name beside it.

    A training draws square crops at random places, each with the whole caption.

    Raises:
        UsageError: no folder, no pictures in it, captions that are missing or empty; nothing but names and captions is
            read.
    """

    few = fresh = False

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise UsageError(
                f"no folder {str(path)!r}; --data takes a folder of pictures with captions (a.jpg and a.txt), or world"
            )
        self.path, self.files = path, picture_files(path)
        if not self.files:
            raise UsageError(f"no pictures in {str(path)!r}; expected such as a.jpg, with its caption in a.txt")
        self.captions, problems = [], []
        for file in self.files:
            beside = file.with_suffix(".txt")
            text = read_text(beside).strip() if beside.is_file() else ""
            if not text:
                problems.append(f"{file}: no caption; expected one in {beside.name} beside it")
            self.captions.append(text)
        refuse(problems)
        self.about = f"{len(self.files)} pictures with captions of a folder"
        self.identity = digest([[f.relative_to(path).as_posix() for f in self.files], self.captions,
                                [file_digest(f) for f in self.files]])  # fmt: skip

    def kinds(self, side: int, ratio: int) -> tuple[Kind, ...]:
        """Squares. Raises ``UsageError`` on pictures that are smaller."""
        small = []
        for file in self.files:
            head = read_head(file)
            if min(head.width, head.height) < side:
                small.append(f"{file}: {head.width}x{head.height}; expected at least {side}x{side}, the crops' size")
        refuse(small)
        return (Kind(side, side, ratio),)

    def draw(self, kind: Kind, rng: np.random.Generator, fresh: bool = False) -> Key:
        """A picture and the place of a crop in it."""
        i = int(rng.integers(0, len(self.files)))
        head = read_head(self.files[i])
        return i, int(rng.integers(0, head.height - kind.height + 1)), int(rng.integers(0, head.width - kind.width + 1))

    def look(self, kind: Kind, key: Key) -> tuple[np.ndarray, str]:
        """The crop, and the caption of the whole."""
        i, y, x = key
        return read_picture(self.files[i])[y : y + kind.height, x : x + kind.width], self.captions[i]

    def scrolls(self, side: int, unit: int, long: int) -> FolderScrolls:
        """All pictures, whole. Raises ``UsageError`` on such as are too small or too short."""
        return FolderScrolls(self.files, self.captions, self.about, self.identity, side, unit, long)


class FolderScrolls:
    """A folder's pictures, each as large as its own proportions say; what is no whole token is cut off evenly.

    Args:
        files, captions: the pictures and their texts.
        about, identity: of the folder.
        side: px of the short side.
        unit: px that sides are multiples of.
        long: px that the long side is longer than.

    Raises:
        UsageError: pictures that are smaller or shorter; only their heads are read.
    """

    fresh = False

    def __init__(
        self, files: Sequence[Path], captions: Sequence[str], about: str, identity: str, side: int, unit: int, long: int
    ) -> None:
        self.files, self.captions, self.about, self.identity = files, captions, about, identity
        self._sizes, problems = [], []
        for file in files:
            head = read_head(file)
            sides, short = (head.width, head.height), min(head.width, head.height)
            width, height = (side if n == short else n * side // short // unit * unit for n in sides)
            if short < side or max(width, height) <= long:
                problems.append(
                    f"{file}: {head.width}x{head.height}; expected a short side of at least {side} px, and a long one "
                    f"of more than {long} px once the short one has {side}"
                )
            self._sizes.append((width, height))
        refuse(problems)
        self.kinds = tuple(Kind(*size, 1, n) for size, n in sorted(Counter(self._sizes).items()))

    def draw(self, kind: Kind, rng: np.random.Generator, fresh: bool = False) -> Key:
        """A picture of this size."""
        able = [i for i, size in enumerate(self._sizes) if size == (kind.width, kind.height)]
        return (able[int(rng.integers(0, len(able)))],)

    def look(self, kind: Kind, key: Key) -> tuple[np.ndarray, str]:
        """The picture, resized, and its caption."""
        rgb = Image.fromarray(read_picture(self.files[key[0]]))
        times = min(rgb.width / kind.width, rgb.height / kind.height)
        x, y = (rgb.width - kind.width * times) / 2, (rgb.height - kind.height * times) / 2
        box = (x, y, rgb.width - x, rgb.height - y)
        small = rgb.resize((kind.width, kind.height), Image.Resampling.LANCZOS, box)
        return np.asarray(small), self.captions[key[0]]
