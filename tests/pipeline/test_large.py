"""Large pictures on their way through a run: parts become one picture on disk, scored and shown through windows."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench import views
from bench.metrics.coherence import column_steps, row_steps
from bench.metrics.repetition import repetition, token_map
from bench.metrics.sample import Sample
from bench.pipeline.maker import finished, to_rgb
from bench.report.contact import reduced
from bench.store.raster import Raster, strips
from bench.types import Canvas, Parts, Prompt

SIZE = (140, 1100)
CANVAS = Canvas(1100, 140)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.types.WHOLE", 2**7)


def halves(picture: Any) -> Iterator[tuple[int, int, Any]]:
    """A picture as two that add up to it, right part first."""
    yield 0, 500, picture[:, :, 500:]
    yield 0, 0, picture[:, :, :500]


@pytest.mark.parametrize("kind", ["array", "tensor", "half"])
def test_parts_and_large_pictures_get_the_levels_of_a_whole_one(tmp_path: Path, large: None, kind: str) -> None:
    values: Any = np.random.default_rng(0).random((3, *SIZE), dtype=np.float32)
    values = {"array": values, "tensor": torch.tensor(values), "half": torch.tensor(values).bfloat16()}[kind]
    expected, _ = to_rgb(values, CANVAS)
    for given in (values, Parts(*SIZE, halves(values))):
        pixels, flags = finished(given, CANVAS, tmp_path)
        assert isinstance(pixels, Raster)
        assert (np.asarray(pixels) == expected).all()
        assert flags == []
    moved, _ = finished(Parts(*SIZE, [(0, 1, values)]), CANVAS, tmp_path)
    assert (np.asarray(moved) != expected).any()


def test_what_is_wrong_with_a_large_picture_is_found_in_whatever_strip_it_is(tmp_path: Path, large: None) -> None:
    values = np.zeros((3, *SIZE), np.float32)
    assert finished(Parts(*SIZE, halves(values)), CANVAS, tmp_path)[1] == ["black"]
    values[1, 130, 1050] = np.nan
    assert finished(Parts(*SIZE, halves(values)), CANVAS, tmp_path)[1] == ["nan", "black"]
    values[0, 3, 3] = 1
    pixels, flags = finished(Parts(*SIZE, halves(values)), CANVAS, tmp_path)
    assert flags == ["nan"]
    assert pixels[3:4, 3:4].tolist() == [[[255, 0, 0]]]
    values[2, 139, 1099] = 1.5
    for given in (values, Parts(*SIZE, halves(values))):
        with pytest.raises(ValueError, match=r"values in \[0, 1\], got 0 to 1\.5"):
            finished(given, CANVAS, tmp_path)
    with pytest.raises(ValueError, match=r"shape \(3, 140, 1100\) in \[0, 1\], got shape \(3, 140, 1000\)"):
        finished(Parts(140, 1000, halves(values)), CANVAS, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_memory_follows_the_parts_and_not_the_picture(tmp_path: Path, large: None) -> None:
    part = np.full((3, 64, 256), 0.5, np.float32)

    def peak(height: int, whole: bool) -> int:
        parts = Parts(height, 256, ((y, 0, part) for y in range(0, height, 64)))
        tracemalloc.start()
        finished(parts.whole() if whole else parts, Canvas(256, height), tmp_path)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(64, whole=False)  # modules that are imported on the way
    assert peak(8192, whole=False) < 1.1 * peak(2048, whole=False)
    assert peak(8192, whole=True) > 2 * peak(2048, whole=True)  # the control: the sum in memory


# -- looked at


@pytest.fixture(params=[False, True], ids=["wide", "tall"])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[np.ndarray, Raster]:
    """The same picture in memory and on disk."""
    height, width = (200, 48) if request.param else (48, 200)
    rgb = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return rgb, Raster(tmp_path, height, width, strips(rgb))


@pytest.mark.parametrize("view", [*sorted(set(views.VIEWS) - {"ring"}), "tiles:20", "ring"])
def test_every_view_cuts_the_same_crops_from_the_disk(pair: tuple[np.ndarray, Raster], view: str) -> None:
    rgb, raster = pair
    canvas = Canvas(rgb.shape[1], rgb.shape[0], loop=view == "ring" and rgb.shape[1] > rgb.shape[0])
    if view == "ring" and not canvas.loop:
        view = "windows"
    expected = views.crops(rgb, view, canvas, "3")
    found = views.cuts(raster, view, canvas, "3")
    assert len(found) == len(expected)
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))
    assert [c.shape for c in found[1:3]] == [c.shape for c in expected[1:3]]


class Means:
    """A network of role dino whose tokens are the mean colours of 4 x 4 patches; it notes what is held at once."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()

    def patches(self, crops: Any) -> np.ndarray:
        self.kinds.add(type(crops).__name__)
        cells = [c.reshape(4, len(c) // 4, 4, len(c) // 4, 3).mean(axis=(1, 3)) for c in crops]
        return np.stack(cells).astype(np.float32)


def test_metrics_give_the_same_numbers_from_the_disk(pair: tuple[np.ndarray, Raster]) -> None:
    rgb, raster = pair
    network: Any = Means()
    canvas = Canvas(rgb.shape[1], rgb.shape[0])
    assert (token_map(rgb, network) == token_map(raster, network)).all()
    assert network.kinds == {"Cuts"}  # squares are cut one after the other
    for steps, swapped in ((column_steps, row_steps), (row_steps, column_steps)):
        assert (steps(rgb) == steps(raster)).all()
        assert (steps(rgb) == swapped(rgb.swapaxes(0, 1))).all()
    values = [repetition.fn(Sample(p, Prompt("p", "t"), canvas, extractor=network)) for p in (rgb, raster)]
    assert values[0] == values[1] != [None]
    assert (Sample(raster, Prompt("p", "t"), canvas).rgb == rgb).all()


def test_a_contact_sheet_reduces_from_the_disk_as_from_memory(pair: tuple[np.ndarray, Raster]) -> None:
    rgb, raster = pair
    size = (rgb.shape[1] // 3, rgb.shape[0] // 3)
    expected = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS))
    assert (np.asarray(reduced(raster, *size)) == expected).all()
    assert (np.asarray(reduced(raster, *size)) != expected[::-1]).any()
