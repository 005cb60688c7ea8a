"""Pictures written out as tiled BigTIFF, a row of tiles in memory: what viewers of huge pictures and libvips open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np

from bench.store.commit import writing
from bench.store.raster import Raster

TILE = 512  # pixels a side
SUFFIXES = (".tif", ".tiff")


def write_tiff(pixels: np.ndarray | Raster, path: Path) -> None:
    """Write a picture, uint8 (h, w, 3), packed without loss. The file is there when it is whole.

    Raises:
        StoreError: it cannot be written.
    """
    from tifffile import TiffWriter

    height, width, _ = pixels.shape

    def tiles() -> Iterator[np.ndarray]:
        for y in range(0, height, TILE):
            band = pixels[y : y + TILE, :]
            for x in range(0, width, TILE):
                tile = np.zeros((TILE, TILE, 3), np.uint8)
                shown = band[:, x : x + TILE]
                tile[: shown.shape[0], : shown.shape[1]] = shown
                yield tile

    temporary = path.with_name(f".{path.stem}.{uuid4().hex[:8]}.tmp")
    with writing(path, height * width * 3):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with TiffWriter(temporary, bigtiff=True) as file:
                file.write(
                    tiles(), shape=pixels.shape, dtype=np.uint8, tile=(TILE, TILE), photometric="rgb",
                    compression="adobe_deflate", predictor=True, metadata=None, maxworkers=1,
                )  # fmt: skip
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
