"""The stage of video super-resolution: tiles, frames, sizes, files, and the way to it through ``upscale``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.errors import PrerequisiteError, UsageError
from bench.ids import file_digest
from bench.noise import Noise
from bench.pipeline.meta import counting
from bench.registry import find
from bench.types import Canvas, Prompt
from methods.backbones.wan import wan_small
from methods.direct_video import direct_video
from methods.scrollsr import files
from methods.scrollsr.blocks import TOKENS, near
from methods.scrollsr.choose import identify, load
from methods.scrollsr.files import DECODER, PROJECTOR, PROMPT, TRANSFORMER, locate
from methods.scrollsr.flashvsr import FlashVSR, blank
from methods.scrollsr.protocol import FrameByFrame, Still, assemble
from methods.scrollsr.stream import Stream
from methods.shared import upscaler
from methods.upscale import upscale_video
from tests.support.close import products, rounding
from tests.support.tiny_flashvsr import write_flashvsr
from tests.support.tiny_pipelines import write_wan

NOISE = Noise(0, "sea")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flashvsr(tmp_path_factory.mktemp("flashvsr") / "v1.1")


@pytest.fixture(scope="module")
def flashvsr(folder: Path) -> Any:
    return load(f"flashvsr-v1.1:{folder}", "cpu", "fp32", torch.float32)


def clip(frames: int, height: int, width: int) -> torch.Tensor:
    return torch.rand((3, frames, height, width), generator=torch.Generator().manual_seed(0))


def made(video: Any, frames: torch.Tensor, tile: int = 0, context: int = 0) -> torch.Tensor:
    _, n, height, width = frames.shape
    with torch.no_grad():
        return assemble(video(frames, NOISE, tile, context), n, height * video.scale, width * video.scale)


def test_tiles_that_see_far_enough_leave_no_trace(flashvsr: FlashVSR) -> None:
    """One block of layers that looks one block of 128 px far and keeps all of them; the decoder sees 152 px, the
    projector 32 px: four blocks in all. Colours are a tile's own, so they stay as made."""
    whole = replace(flashvsr, reach=3, sparse=1e3, colour="none")
    frames = clip(21, 20, 10 * 32)
    expected = made(whole, frames)
    bound = rounding(1.0, products(*whole.networks[:3]))
    assert float((made(whole, frames, 5 * 32, 4 * 32) - expected).abs().max()) < bound
    less = next(whole(frames, NOISE, 5 * 32, 32)).pixels
    assert float((less - expected[..., :80, : less.shape[-1]]).abs().max()) > 100 * bound  # the control: it sees less


def test_as_many_frames_come_out_as_go_in_at_four_times_their_size(flashvsr: FlashVSR) -> None:
    frames = clip(22, 20, 36)
    pieces = list(flashvsr(frames, NOISE))
    assert [(p.first, p.pixels.shape[1]) for p in pieces] == [(0, 21), (21, 1)]
    ours = assemble(pieces, 22, 80, 144)
    longer = torch.cat([frames, frames[:, -1:].expand(-1, 7, -1, -1)], dim=1)
    assert torch.equal(ours, made(flashvsr, longer)[:, :22])  # filled up with the last frame
    assert float(ours.min()) >= 0
    assert float(ours.max()) <= 1
    short = made(flashvsr, frames[:, :2])
    assert short.shape == (3, 2, 80, 144)
    assert not torch.equal(short, ours[:, :2])  # what follows is seen


def test_colours_follow_the_clip_and_not_what_it_was_filled_up_with(flashvsr: FlashVSR) -> None:
    frames = clip(21, 20, 36)
    expected = torch.nn.functional.interpolate(frames.transpose(0, 1), scale_factor=4, mode="bicubic").clamp(0, 1)
    for fix, bound in (("adain", 0.03), ("none", None)):
        means = made(replace(flashvsr, colour=fix), frames).mean((-2, -1)).T
        off = float((means - expected.mean((-2, -1))).abs().max())
        assert off < bound if bound else off > 0.1


def test_noise_is_the_pictures_own(flashvsr: FlashVSR) -> None:
    frames = clip(1, 20, 20)
    other = assemble(flashvsr(frames, Noise(1, "sea")), 1, 80, 80)
    assert torch.equal(made(flashvsr, frames), made(flashvsr, frames))
    assert not torch.equal(made(flashvsr, frames), other)


def test_a_network_of_single_pictures_takes_clips_frame_by_frame() -> None:
    video = load("world-upscaler", "cpu", "fp32", torch.float32)
    frames = clip(2, 8, 12)
    one = upscaler.load(upscaler.locate("world-upscaler"), "cpu", torch.float32)
    assert isinstance(video, FrameByFrame)
    expected = torch.stack([one(f, 8, 4).clamp(0, 1) for f in frames.unbind(1)], dim=1)
    assert torch.equal(made(video, frames, 8, 4), expected)


def test_a_still_is_the_middle_of_a_clip_that_shows_nothing_else(flashvsr: FlashVSR) -> None:
    picture = clip(1, 20, 20)[:, 0]
    with torch.no_grad():
        ours = Still(flashvsr, NOISE)(picture)
    assert torch.equal(ours, made(flashvsr, picture[:, None].expand(-1, 21, -1, -1))[:, 10])


@pytest.mark.parametrize(("tile", "context"), [(48, 32), (64, 16), (-32, 0)])
def test_tiles_that_cut_blocks_are_refused_before_anything_is_made(flashvsr: FlashVSR, tile: int, context: int) -> None:
    with pytest.raises(UsageError, match="steps of 32"):
        flashvsr(clip(1, 8, 8), NOISE, tile, context)
    with pytest.raises(UsageError, match="expected frames"):
        flashvsr(torch.zeros(3, 8, 8), NOISE)
    with pytest.raises(UsageError, match="did you mean 'adain'"):
        replace(flashvsr, colour="adian")


# -- files


def test_files_are_known_by_their_content_and_version(folder: Path, tmp_path: Path) -> None:
    same, other = write_flashvsr(tmp_path / "same"), write_flashvsr(tmp_path / "other", seed=1)
    digests = [identify(f"flashvsr-v1.1:{f}") for f in (folder, same, other)]
    assert digests[0] == digests[1] != digests[2]
    assert identify(f"flashvsr-v1:{folder}") not in digests


def test_what_is_not_here_is_named_with_the_command_that_fetches_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PrerequisiteError, match=r"scrollbench weights fetch flashvsr-v1\.1 flashvsr-prompt"):
        locate("flashvsr-v1.1")
    with pytest.raises(UsageError, match=r"did you mean 'flashvsr-v1\.1'"):
        locate("flashvsr-v1.2")
    with pytest.raises(UsageError, match=f"lacks .*{PROJECTOR}"):
        locate(f"flashvsr-v1:{tmp_path}")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in (TRANSFORMER, PROJECTOR, DECODER):
        (bare / name).symlink_to(folder / name)
    with pytest.raises(PrerequisiteError, match="scrollbench weights fetch flashvsr-prompt"):
        locate(f"flashvsr-v1.1:{bare}")


def test_a_projector_that_is_known_to_be_the_other_versions_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = dict(files.load_manifest())
    known = {PROJECTOR: file_digest(folder / PROJECTOR) + "0" * 40}
    manifest["flashvsr-v1.1"] = manifest["flashvsr-v1.1"].model_copy(update={"digests": known})
    monkeypatch.setattr(files, "load_manifest", lambda: manifest)
    assert locate(f"flashvsr-v1.1:{folder}").version == "flashvsr-v1.1"
    with pytest.raises(UsageError, match=r"name flashvsr-v1\.1 as the model"):
        locate(f"flashvsr-v1:{folder}")


def write_wrong(folder: Path, what: str) -> str:
    """A folder with one wrong file; its name."""
    state = torch.load(folder / DECODER, weights_only=True)
    if what == "narrow":
        torch.save({**state, "decoder.24.weight": torch.zeros(1, 2, 3, 3)}, folder / DECODER)
    elif what == "surplus":
        torch.save({**state, "encoder.0.weight": torch.zeros(1)}, folder / DECODER)
    elif what == "code":
        torch.save(np.save, folder / DECODER)
    elif what == "prompt":
        torch.save(torch.zeros(1, 3, 9), folder / PROMPT)
        return PROMPT
    elif what == "text":
        (folder / PROMPT).write_text("a sea")
        return PROMPT
    else:
        weights = load_file(folder / TRANSFORMER)
        weights.pop("head.head.bias")
        save_file(weights, folder / TRANSFORMER)
        return TRANSFORMER
    return DECODER


@pytest.mark.parametrize("what", ["narrow", "surplus", "code", "prompt", "text", "lacking"])
def test_files_that_are_not_flashvsrs_are_refused_by_name(tmp_path: Path, what: str) -> None:
    name = write_wrong(write_flashvsr(tmp_path), what)
    with pytest.raises(UsageError, match=name):
        load(f"flashvsr-v1.1:{tmp_path}", "cpu", "fp32", torch.float32)


def test_half_precision_is_the_released_one(folder: Path) -> None:
    video = load(f"flashvsr-v1.1:{folder}", "cpu", "bf16", torch.float32)
    assert isinstance(video, FlashVSR)
    assert {p.dtype for module in video.networks[:3] for p in module.parameters()} == {torch.bfloat16}
    assert made(video, clip(1, 8, 8)).dtype == torch.float32


# -- the released sizes


def test_the_released_networks_have_their_published_size() -> None:
    parts = blank().networks
    assert [sum(p.numel() for p in m.parameters()) for m in parts[:3]] == [287_845_888, 1_418_996_800, 45_338_371]
    assert [len(m.state_dict()) for m in parts[:3]] == [8, 825, 66]
    assert tuple(parts.prompt.shape) == (512, 4096)


def test_a_cost_is_known_without_weights_and_the_cache_takes_what_it_takes(flashvsr: FlashVSR) -> None:
    """768 x 1280: 60 blocks, of which a head keeps 120 each, or all of the 11 x 11 near ones in three slots."""
    networks, tokens, heads, layers, text = blank().networks, 60 * TOKENS, 12 * 128, 30, 512
    stream = Stream(networks, 768, 1280)
    with counting() as tally:
        frames, noise = (networks.prompt.new_empty(size) for size in ((3, 25, 768, 1280), (16, 6, 96, 160)))
        assert stream.step(frames, noise).shape == (3, 21, 768, 1280)
    pairs = min(int(60**2 * 2.0) - 1, 3 * int(near(6, 10, 11).sum()))
    sparse = layers * 3 * 4 * pairs * TOKENS**2 * heads
    assert tally.attention == sparse + layers * 4 * 3 * tokens * text * heads
    kept = sum(t.numel() * t.element_size() for pair in stream.kept for t in pair)
    assert kept == layers * 2 * 3 * tokens * heads * 2 == 768 * 1280 * 4320
    tiny = Stream(flashvsr.networks, 128, 128)
    with torch.no_grad():
        tiny.step(torch.zeros(3, 25, 128, 128), torch.zeros(16, 6, 16, 16), last=True)
    assert not tiny.kept  # nothing comes after it


def test_a_forecast_may_put_a_function_in_the_place_of_steps_whose_shapes_it_knows(flashvsr: FlashVSR) -> None:
    shapes = []

    def remember(step: Any) -> Any:
        def known(_: Any, frames: torch.Tensor, noise: torch.Tensor, last: bool) -> torch.Tensor:
            shapes.append((*frames.shape[1:], *noise.shape[1:]))
            return torch.zeros_like(frames[:, :-4])

        return known

    made(flashvsr.through(remember), clip(22, 20, 4 * 32), 32, 32)
    ends, inner = [(n, 128, 256, z, 16, 32) for n, z in ((25, 6), (12, 2))], [(25, 128, 384, 6, 16, 48)]
    inner.append((12, 128, 384, 2, 16, 48))
    assert shapes == [*ends, *inner, *inner, *ends]  # a tile at an end sees one block more, one between them two


# -- the way to it


def test_upscale_video_reaches_it_by_name(folder: Path, tmp_path: Path) -> None:
    backbone: Any = wan_small(model=str(write_wan(tmp_path)))
    sea, name = Prompt("sea", "a calm sea"), f"flashvsr-v1.1:{folder}"
    knobs = upscale_video.resolve({"base": "direct-video steps=1", "scale": 4.0, "model": name}, "flashvsr")
    assert (knobs["tile"], knobs["context"]) == (256, 160)
    ours = upscale_video.fn(backbone, sea, Canvas(128, 64), NOISE, **knobs)
    small = direct_video.fn(backbone, sea, Canvas(32, 16), NOISE, **direct_video.resolve({"steps": 1}))
    with torch.no_grad():
        video = load(name, "cpu", "fp32", torch.float32)
        torch.testing.assert_close(ours, Still(video, NOISE)(small), rtol=0, atol=1e-6)
    assert find("methods", "upscale-video").resolve({}, "flashvsr")["model"] == "flashvsr-v1.1"
    backbone.meter.reset()
    with pytest.raises(UsageError, match="steps of 32"):
        upscale_video.fn(backbone, sea, Canvas(128, 64), NOISE, **{**knobs, "tile": 100})
    assert backbone.meter.nfe == 0
