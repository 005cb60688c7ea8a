"""Odd pictures: every file is read by one rule, every metric has an answer or says why not, memory is bounded."""

import re
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import extractors, views
from bench.errors import UsageError
from bench.extractors.lpips import PIXELS, Lpips
from bench.ids import image_id
from bench.metrics import GSD, IS, KID, CLIPScore, IntraLPIPS, StyleL
from bench.metrics.alignment import clip_score
from bench.metrics.coherence import adjacent, column_steps, intra_lpips, seam_tv, ssim
from bench.metrics.distribution import fid, inception_score, kid
from bench.metrics.gsd import gsd_dino, gsd_lpips
from bench.metrics.panollama import panollama, panorama_tv
from bench.metrics.sample import Sample
from bench.metrics.style import intra_style
from bench.store import Store, pictures
from bench.store.pictures import read_picture
from bench.types import Canvas, Prompt
from tests.support import tiny

METRICS = [gsd_dino, gsd_lpips, intra_lpips, adjacent, panollama, intra_style, clip_score]
PAIRS = [gsd_dino, gsd_lpips, intra_lpips, adjacent, intra_style]


# -- files


@pytest.fixture
def saved(tmp_path):
    def save(picture, name="picture.png", **options):
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return save


def test_transparent_pixels_are_laid_on_white_whatever_colour_hides_behind(saved):
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[..., :3] = (200, 0, 0)
    rgba[0, :, 3] = (0, 128, 255)
    rgba[1, :, 3] = 255
    found = read_picture(saved(Image.fromarray(rgba)))
    assert found.dtype == np.uint8
    assert found[0].tolist() == [[255, 255, 255], [227, 127, 127], [200, 0, 0]]
    assert (found[1] == (200, 0, 0)).all()
    dropped = np.asarray(Image.fromarray(rgba).convert("RGB"))
    assert (found != dropped).any()  # leaving the channel out would show what nobody sees
    grey = Image.fromarray(np.array([[[90, 0], [90, 255]]], np.uint8), "LA")
    assert read_picture(saved(grey)).tolist() == [[[255] * 3, [90] * 3]]


def test_a_transparent_palette_entry_is_white_too(saved):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    assert read_picture(saved(picture, transparency=0)).tolist() == [[[255] * 3, [40, 50, 60]]]
    assert read_picture(saved(picture)).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def png16(rows, colour):
    """A PNG file of 16-bit values (h, w) or (h, w, 3), written by hand: Pillow writes no such colour pictures."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 16, colour, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_of_sixteen_bits_the_high_byte_counts_in_grey_and_in_colour(tmp_path):
    values = np.array([[0, 255, 256, 65535]], np.uint16)
    (tmp_path / "grey.png").write_bytes(png16(values, 0))
    (tmp_path / "colour.png").write_bytes(png16(np.stack([values] * 3, axis=-1), 2))
    grey, colour = read_picture(tmp_path / "grey.png"), read_picture(tmp_path / "colour.png")
    assert grey[0, :, 0].tolist() == [0, 0, 1, 255]
    assert np.array_equal(grey, colour)


def test_cmyk_is_converted_and_values_of_thirty_two_bits_are_refused(saved):
    inks = np.array([[[0, 0, 0, 0], [0, 255, 255, 0], [0, 0, 0, 255]]], np.uint8)
    cmyk = Image.fromarray(inks, "CMYK")
    assert read_picture(saved(cmyk, "p.tif")).tolist() == [[[255] * 3, [255, 0, 0], [0] * 3]]
    for mode in ("F", "I"):
        with pytest.raises(UsageError, match="no agreed white"):
            read_picture(saved(Image.new(mode, (4, 4)), f"{mode}.tif"))


@pytest.mark.parametrize("name", ["moving.gif", "moving.png", "pages.tif"])
def test_animations_and_pages_are_refused_and_single_frames_are_not(saved, name):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    with pytest.raises(UsageError, match="it holds 2 pictures"):
        read_picture(saved(frames[0], name, save_all=True, append_images=frames[1:]))
    assert (read_picture(saved(frames[0], name)) == (255, 0, 0)).all()


def test_of_a_cameras_two_pictures_the_first_is_taken(saved):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("white", "black")]
    path = saved(frames[0], "photo.mpo", save_all=True, append_images=frames[1:])
    with Image.open(path) as both:
        assert (both.format, both.n_frames) == ("MPO", 2)
    assert read_picture(path).min() > 250


def test_a_photo_lying_on_its_side_is_turned_as_its_camera_says(saved):
    rgb = tiny.pictures(1, 6, 4)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    found = read_picture(saved(Image.fromarray(rgb), exif=exif))
    assert np.array_equal(found, np.rot90(rgb, -1))
    assert found.shape == (6, 4, 3)


def test_pictures_beyond_pillows_limit_are_read_and_beyond_ours_refused(saved, monkeypatch):
    path = saved(Image.new("RGB", (60, 50), "red"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(path).shape == (50, 60, 3)
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(Image.DecompressionBombError), Image.open(path) as control:
        control.load()
    monkeypatch.setattr(pictures, "MAX_PIXELS", 2999)
    with pytest.raises(UsageError, match="60x50 is more than 2999 pixels"):
        read_picture(path)


def test_a_scroll_of_32768_by_4096_is_read(saved):
    path = saved(Image.new("1", (32768, 4096), 1))
    found = read_picture(path)
    assert found.shape == (4096, 32768, 3)
    assert found[::511, ::511].min() == 255


@pytest.mark.parametrize("bytes_", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_named(tmp_path, bytes_):
    (tmp_path / "bad.png").write_bytes(bytes_)
    with pytest.raises(UsageError, match=r"bad\.png"):
        read_picture(tmp_path / "bad.png")


def test_a_cut_off_picture_is_named_and_a_missing_one_too(saved, tmp_path):
    path = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    path.write_bytes(path.read_bytes()[:4000])
    for bad in (path, tmp_path / "none.png"):
        with pytest.raises(UsageError, match=bad.name):
            read_picture(bad)


# -- metrics


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    made = {"dino": tiny.vit, "clip": tiny.clip, "lpips": tiny.lpips, "style": tiny.lpips, "inception": tiny.cnn}
    return {role: extractors.load(f"{role}@{make(root / f'tiny-{role}')}") for role, make in made.items()}


def measured(metric, nets, rgb):
    canvas = Canvas(rgb.shape[1], rgb.shape[0])
    sample = Sample(rgb, Prompt("p", "a calm sea"), canvas, extractor=nets[metric.extractor], view="tiles")
    return {v.name: v.value for v in metric.fn(sample, **metric.resolve({})) if v.index is None}


def by_name(metric):
    return metric.name


@pytest.mark.parametrize("metric", METRICS, ids=by_name)
@pytest.mark.parametrize("shape", [(32, 128), (128, 32)], ids=["wide", "tall"])
@pytest.mark.parametrize("grey", [0, 255])
def test_black_and_white_pictures_have_finite_numbers(metric, shape, grey, nets):
    values = measured(metric, nets, np.full((*shape, 3), grey, np.uint8))
    assert values
    assert all(v is not None and np.isfinite(v) for v in values.values())


@pytest.mark.parametrize("metric", PAIRS, ids=by_name)
@pytest.mark.parametrize("shape", [(1, 256), (256, 1), (4, 4), (7, 300), (32, 32), (1, 1)])
def test_pictures_of_one_crop_have_no_pairs_and_no_number(metric, shape, nets):
    assert set(measured(metric, nets, np.full((*shape, 3), 90, np.uint8)).values()) == {None}


@pytest.mark.parametrize("shape", [(1, 256), (4, 4), (1, 1)])
def test_what_needs_no_pairs_is_measured_on_the_smallest_pictures(shape, nets):
    rgb = np.full((*shape, 3), 90, np.uint8)
    assert measured(clip_score, nets, rgb)["clip-score"] is not None
    tv = measured(panollama, nets, rgb)
    assert tv["pl-tv"] == (0 if min(shape) > 1 else None)
    assert tv["pl-lpips-adj"] is tv["pl-ssim-adj"] is tv["pl-tv-seam"] is None


def test_crops_too_small_for_ssim_still_have_an_lpips(nets):
    found = measured(adjacent, nets, np.concatenate(tiny.pictures(3, 10, 10), axis=1))
    assert found["adjacent-ssim"] is None
    assert found["adjacent-lpips"] > 0


@pytest.mark.parametrize("cls", [GSD, IntraLPIPS, StyleL, CLIPScore], ids=lambda c: c.__name__)
def test_the_classes_refuse_what_is_no_picture_and_take_none_for_nothing(cls, nets):
    def fresh():
        return cls(nets[cls.spec.extractor])

    bad = {
        r"\[0, 1\]": torch.full((1, 3, 32, 64), float("nan")), "0, 1": torch.full((1, 3, 32, 64), float("inf")),
        r"\(n, 3, h, w\)": torch.zeros(1, 4, 32, 64), "uint8": [np.zeros((32, 64, 3))],
        "shape": [np.zeros((32, 64, 4), np.uint8)],
    }  # fmt: skip
    for said, images in bad.items():
        with pytest.raises(UsageError, match=said):
            fresh().update(images, ["a sea"])
    metric = fresh()
    metric.update(torch.zeros(0, 3, 32, 64), [])
    metric.update([], [])
    assert np.isnan(float(metric.compute()))


def test_sets_of_one_picture_are_refused_and_sets_of_equal_pictures_are_not(nets):
    black = nets["inception"].embed([np.zeros((32, 32, 3), np.uint8)] * 4).astype(np.float64)
    others = nets["inception"].embed(tiny.pictures(5)).astype(np.float64)
    assert np.isfinite([*fid.fn(black, others).values(), *kid.fn(black, others).values()]).all()
    assert fid.fn(black, black)["fid"] == 0
    assert inception_score.fn(np.zeros((3, 4)))["is"] == 1
    for metric in (fid, kid):
        with pytest.raises(UsageError, match="n=1 and m=5"):
            metric.fn(black[:1], others)
    for cls in (IS, KID):
        with pytest.raises(UsageError, match="call update"):
            cls(nets["inception"]).compute()


# -- memory and documentation

BIG = 150  # MiB beside a picture of 8192x1024: stripes and crops in floats, never the whole, which takes 192


def test_the_memory_that_scoring_takes_follows_crops_and_stripes_not_the_picture(nets):
    rgb = np.random.default_rng(0).integers(0, 256, (1024, 8192, 3), dtype=np.uint8)
    canvas = Canvas(8192, 1024)

    def score():
        gsd_dino.fn(Sample(rgb, Prompt("p", ""), canvas, extractor=nets["dino"], view="tiles"))
        first, second = views.crops(rgb, "tiles", canvas)[:2]
        ssim(first[None], second[None])
        seam_tv(rgb, 1024)
        panorama_tv(rgb)

    assert peak_mib(score) < BIG
    assert peak_mib(lambda: rgb / 255) > BIG


def test_the_store_holds_a_picture_once_and_knows_it_by_its_bytes_in_place(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (512, 8192, 3), dtype=np.uint8)  # 12 MiB
    store = Store(tmp_path)
    name = store.write_image(rgb)
    assert peak_mib(lambda: store.read_image(name)) < 1.75 * 12  # beside what Pillow decodes into, which is not counted
    assert peak_mib(lambda: image_id(rgb)) < 1
    with Image.open(store.image_path(name)) as picture:
        assert peak_mib(lambda: np.asarray(picture)) > 1.75 * 12
    assert image_id(np.asfortranarray(rgb)) == name


def test_steps_between_columns_are_summed_in_bounded_bands_of_pictures_of_any_shape():
    rgb = np.random.default_rng(0).integers(0, 256, (64, 2**17, 3), dtype=np.uint8)  # 24 MiB, 48 in the type of steps
    assert peak_mib(lambda: column_steps(rgb)) < 48
    assert peak_mib(lambda: np.diff(rgb.astype(np.int16), axis=1)) > 48
    few = rgb[:, :300]
    stepped = np.abs(np.diff(few.astype(float), axis=1)).mean((0, 2)) / 255
    np.testing.assert_allclose(column_steps(few)[:-1], stepped, rtol=1e-12)


def peak_mib(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("width", "height"), [(512, 512), (1024, 1024), (64, 64)])
def test_lpips_holds_the_features_of_a_bounded_number_of_pixels(nets, monkeypatch, width, height):
    held, n = [], 20
    monkeypatch.setattr(Lpips, "_layers", lambda self, crops: held.append(len(crops)) or iter([torch.zeros(1)] * 0))
    nets["lpips"].distances([np.zeros((height, width, 3), np.uint8)] * n)
    assert max(held) * width * height <= PIXELS
    assert max(held) == min(n, PIXELS // (width * height))


def test_the_example_of_the_documentation_runs(capsys):
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?from bench\.metrics import .*?)```", text, re.DOTALL)
    exec(compile(example, "docs/metrics.md", "exec"), {})
    printed = [float(n) for n in capsys.readouterr().out.split()]
    assert len(printed) == 5
    assert np.isfinite(printed).all()
