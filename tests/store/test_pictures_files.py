"""Picture files at every door: what counts in a folder, one reader for all, and nothing but our own errors from it."""

import os
import re
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

import bench
from bench.errors import ScrollBenchError, UsageError
from bench.pipeline.adopt import adopt, propose
from bench.pipeline.references import load_reference
from bench.store import Store, pictures
from bench.store.pictures import Head, picture_files, read_head, read_picture
from tests.support import tiny
from tests.support.small import small

RGB = tiny.pictures(1, 16, 8)[0]  # the canvas of the small suite
SIDEWAYS, TURNED = 6, -1  # an orientation, and the quarters by which such a picture is to be turned
SAVED = {  # a suffix, options
    ".png": {}, ".jpg": {}, ".JPEG": {}, ".jfif": {}, ".webp": {"lossless": True}, ".tif": {}, ".bmp": {}, ".avif": {},
    ".gif": {}, ".qoi": {}, ".jp2": {"irreversible": False}, ".ppm": {}, ".mpo": {},
}  # fmt: skip


def save(path, rgb=RGB, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path, **options)
    return path


def sideways():
    exif = Image.Exif()
    exif[0x0112] = SIDEWAYS
    return exif


def texts(size):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("workflow", "x" * size, zip=True)
    return info


# -- one file


@pytest.mark.parametrize("suffix", SAVED)
def test_every_format_is_read_and_its_size_and_losses_are_known_before(tmp_path, suffix):
    path = save(tmp_path / f"picture{suffix}", **SAVED[suffix])
    rgb, head = read_picture(path), read_head(path)
    assert (head.height, head.width) == rgb.shape[:2] == RGB.shape[:2]
    assert head.lossy == (suffix.lower() in (".jpg", ".jpeg", ".jfif", ".mpo", ".webp", ".avif", ".jp2"))
    assert head.lossy or suffix == ".gif" or np.array_equal(rgb, RGB)
    assert picture_files(tmp_path) == [path]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_lies_as_its_camera_says_in_every_format_and_its_head_knows(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"p{suffix}", exif=exif, **({} if suffix in (".png", ".tif") else {"quality": 100}))
    shown = RGB[:, ::-1] if orientation in (2, 4, 5, 7) else RGB  # mirrored, then turned by quarters
    shown = np.rot90(shown, {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}[orientation])
    rgb, head = read_picture(path), read_head(path)
    assert rgb.shape == shown.shape == (head.height, head.width, 3)
    near = np.abs(rgb.astype(int) - shown).mean()
    others = [np.abs(rgb.astype(int) - np.rot90(flat, k)).mean() for flat in (RGB, RGB[:, ::-1]) for k in range(4)
              if np.rot90(flat, k).shape == rgb.shape and not np.array_equal(np.rot90(flat, k), shown)]  # fmt: skip
    assert near < min(others) / 2


def test_long_texts_and_profiles_beside_the_pixels_do_not_matter(tmp_path, monkeypatch):
    written = {"pnginfo": texts(1_200_000)}, {"icc_profile": bytes(2_000_000)}
    for i, options in enumerate(written):
        path = save(tmp_path / f"{i}.png", **options)
        assert np.array_equal(read_picture(path), RGB)
        assert read_head(path) == Head(16, 8, lossy=False)
        with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"), Image.open(path) as control:
            control.load()
    monkeypatch.setattr(pictures, "MAX_TEXT", 1_000_000)
    for read in (read_picture, read_head):
        with pytest.raises(UsageError, match=r"1\.png: Decompressed data too large"):
            read(tmp_path / "1.png")


def test_what_a_program_has_set_in_pillow_neither_counts_nor_is_lost(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    path = save(tmp_path / "p.png", rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:6000])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with Image.open(path) as control:
        assert np.asarray(control)[-1].max() == 0  # half a picture, black below
    with pytest.raises(UsageError, match=r"p\.png"):
        read_picture(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    assert PngImagePlugin.MAX_TEXT_CHUNK == ImageFile.SAFEBLOCK


def test_a_grey_of_sixteen_bits_that_means_nothing_is_white(tmp_path):
    path = tmp_path / "grey.png"
    Image.fromarray(np.array([[0, 255, 256, 40_000]], np.uint16)).save(path, transparency=256)
    assert read_picture(path)[0, :, 0].tolist() == [0, 0, 255, 40_000 >> 8]


@pytest.mark.parametrize("read", [read_picture, read_head])
def test_what_is_no_file_is_named_and_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "none.png", "."):
        with pytest.raises(UsageError, match=f"no picture file {re.escape(str(tmp_path / name))}"):
            read(tmp_path / name)


def test_a_file_is_opened_as_one_of_our_formats_whatever_it_is_called(tmp_path):
    script = tmp_path / "page.png"
    script.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with Image.open(script) as control:
        assert control.format == "EPS"  # which a program of its own would run
    with pytest.raises(UsageError, match="cannot identify"):
        read_picture(script)
    assert np.array_equal(read_picture(save(tmp_path / "really-a.png", format="bmp")), RGB)


# -- a folder


def test_a_folder_holds_its_visible_pictures_in_the_order_of_their_names(tmp_path):
    for name in ("b/2.PNG", "b/10.jpg", "a.Tiff", "c.avif", "dir.png/x.bmp"):
        save(tmp_path / name)
    for name in (".hidden.png", "._a.png", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/a.png", "b/.git/x/a.png",
                 "Thumbs/a.png", "b/@eaDir/a.png", "notes.txt.bmp/.x/y.png"):  # fmt: skip
        save(tmp_path / name)
    for name in ("manifest.csv", "Thumbs.db", "paper.pdf", "clip.mpg", "png"):
        (tmp_path / name).write_bytes(b"x")
    names = [p.relative_to(tmp_path).as_posix() for p in picture_files(tmp_path)]
    assert names == ["a.Tiff", "b/10.jpg", "b/2.PNG", "c.avif", "dir.png/x.bmp"]
    inside = tmp_path / "b" / ".git" / "x"
    assert picture_files(inside) == [inside / "a.png"]  # a folder that is asked for is not hidden
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert tmp_path / "gone.png" in picture_files(tmp_path)  # to be named by whoever reads it


def test_what_counts_in_a_folder_is_written_down():
    page = (Path(bench.__file__).parents[1] / "docs" / "suites.md").read_text()
    text = page.split("### Pictures in a folder")[1].split("###")[0]
    assert set(re.findall(r"`(\.[a-z0-9]+)`", text)) == set(pictures.SUFFIXES)
    assert all(f"`{name}`" in text.casefold() for name in pictures.HIDDEN if name != "thumbs.db")  # which has no suffix


def test_pictures_are_opened_and_listed_in_one_place():
    root = Path(bench.__file__).parent
    opening = re.compile(r"\bImage\.open\(|\bimread\(|\brglob\([^)]*\)[^\n]*suffix|glob\([^)]*\.(jpg|webp|\{ext)")
    doors = [p.relative_to(root).as_posix() for p in root.rglob("*.py") if opening.search(p.read_text())]
    assert doors == ["store/pictures.py"]


# -- doors


@pytest.fixture
def suite(tmp_path):
    return small(tmp_path / "suite")


@pytest.fixture
def brought(tmp_path):
    """A folder for the small suite: odd pictures that can be taken, copies that do not count, files to be refused."""
    folder = tmp_path / "theirs"
    save(folder / "harbour_seed0.JPG", np.rot90(RGB, 1), exif=sideways(), quality=100)
    save(folder / "reef_seed0.png", pnginfo=texts(1_200_000))
    save(folder / "dune_seed0.webp", lossless=True)
    save(folder / ".ipynb_checkpoints" / "reef_seed0-checkpoint.png")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._reef_seed0.png").write_bytes(b"\0\5\x16\7junk")
    return folder


PROPOSED = ["file,prompt_id,seed,part", "dune_seed0.webp,dune,0,2to1", "harbour_seed0.JPG,harbour,0,2to1",
            "reef_seed0.png,reef,0,2to1"]  # fmt: skip


def test_what_is_proposed_of_odd_pictures_can_be_adopted_and_is_what_a_reference_holds(tmp_path, suite, brought):
    text, lost = propose(brought, suite)
    assert (text.splitlines(), lost) == (PROPOSED, [])
    (tmp_path / "manifest.csv").write_text(text)
    store = Store(tmp_path / "store")
    assert adopt(brought, suite, "theirs", tmp_path / "manifest.csv", store).adopted == 3
    images = {r["prompt_id"]: r for r in store.ledger().images.values()}
    assert [i for i in images if "lossy-source" in images[i]["flags"]] == ["dune", "harbour"]
    reference = load_reference("theirs", {"kind": "folder", "path": str(brought)}, store.root)
    assert sorted(i["image_id"] for i in images.values()) == [i.image_id for i in reference.items]


def test_one_bad_file_leaves_the_others_proposed_and_every_door_names_it(tmp_path, suite, brought, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (brought / "red.png").write_bytes(b"no picture")
    Image.new("1", (200, 100)).save(brought / "vast_reef.png")
    text, lost = propose(brought, suite)
    assert text.splitlines() == PROPOSED
    assert lost[0].startswith("red.png: cannot read picture")
    assert lost[1:] == ["vast_reef.png: no part is 200x100"]
    (tmp_path / "m.csv").write_text("file,prompt_id\nred.png,reef\nharbour_seed0.JPG,harbour\nvast_reef.png,dune\n")
    with pytest.raises(UsageError, match=r"(?s)red\.png.*vast_reef\.png is 200x100"):
        adopt(brought, suite, "theirs", tmp_path / "m.csv", Store(tmp_path / "store"))
    with pytest.raises(UsageError, match=r"reference 'r':\s+cannot read picture .*red\.png"):
        load_reference("r", {"kind": "folder", "path": str(brought)}, tmp_path)


# -- mutations


def mutated(data, rng):
    """Other bytes: changed, cut out, repeated, overwritten or cut off, with an odd chunk or a size of any size."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at, length = int(rng.integers(len(out))), int(rng.integers(1, 64))
        kind = rng.integers(8)
        if kind < 2:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            out[at : at + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            out = out[: at + 1]
        elif kind == 5:
            out[at:at] = out[int(rng.integers(len(out))) :][:length]
        elif kind == 6 and out[:4] == b"\x89PNG" and len(out) > 40:
            body = rng.choice([b"tRNS", b"PLTE", b"eXIf", b"acTL", b"iCCP", b"zTXt", b"IDAT", b"IEND"]) + bytes(
                out[at:][:9]
            )
            out[33:33] = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
        else:
            out[16:20] = int(rng.choice([0, 1, 2**15, 2**31 - 1, 2**32 - 1])).to_bytes(4, "big")
    return bytes(out)


def seeds(tmp_path):
    """Small files of every format, some with palette, alpha, texts or an orientation."""
    for suffix, options in SAVED.items():
        save(tmp_path / f"seed{suffix}", **options)
    save(tmp_path / "seed-exif.jpg", exif=sideways())
    save(tmp_path / "seed-exif.png", exif=sideways(), pnginfo=texts(3000), icc_profile=bytes(300))
    Image.fromarray(RGB).convert("P").save(tmp_path / "seed-palette.png", transparency=3)
    Image.fromarray(np.dstack([RGB, RGB[..., 0]])).save(tmp_path / "seed-alpha.png")
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        save(tmp_path / f"seed-{compression}.tif", compression=compression)
    return [p.read_bytes() for p in picture_files(tmp_path)]


def fuzz(tmp_path, count):
    """How many of so many mutated files are read and refused, and what else came of them."""
    kinds, rng, counts, other = seeds(tmp_path), np.random.default_rng(0), {"read": 0, "refused": 0}, []
    path = tmp_path / "mutated.png"
    for i in range(count):
        path.write_bytes(mutated(kinds[i % len(kinds)], rng))
        try:
            rgb, head = read_picture(path), read_head(path)
        except ScrollBenchError as error:
            counts["refused"] += str(path) in str(error)
        except Exception as error:
            other.append(error)
        else:
            assert (rgb.dtype, rgb.shape) == (np.uint8, (head.height, head.width, 3))
            counts["read"] += 1
    return counts, other


@pytest.mark.filterwarnings("ignore")  # Pillow's, of metadata it gives up on
def test_of_mutated_files_come_pictures_and_our_own_errors(tmp_path, monkeypatch):
    counts, other = fuzz(tmp_path, 150)
    assert other == []
    assert sum(counts.values()) == 150  # every error has the file's name
    assert min(counts.values()) > 15
    monkeypatch.setattr(pictures, "_named", lambda path: nullcontext())
    assert len({type(e) for e in fuzz(tmp_path, 150)[1]}) >= 2  # the control: what decoders raise
