"""ScrollScape on a tiny random Wan: identities with direct sampling, the way from clip to picture, what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.errors import PrerequisiteError, UsageError
from bench.noise import Noise
from bench.pipeline.meta import Tally, remembered
from bench.pipeline.plan import make_plan
from bench.pipeline.probe import Probe
from bench.registry import find
from bench.store import Store
from bench.types import Canvas, Parts, Prompt
from methods.backbones.sd3 import sd35_medium
from methods.backbones.wan import wan_small
from methods.direct_video import direct_video
from methods.scrollscape import ADAPTED, consensus, decoded, fused, scrollscape
from methods.scrollsr.choose import load
from methods.scrollsr.protocol import Piece, assemble
from methods.shared import lora, upscaler
from methods.shared.scan import Scan, lay
from methods.shared.windows import gather
from methods.upscale import upscale_video
from tests.support.close import rounding, sampled
from tests.support.shallow import shallow
from tests.support.small import small
from tests.support.tiny_flashvsr import write_flashvsr
from tests.support.tiny_pipelines import write_wan

BOAT = Prompt("boat", "a boat under one moon", "blurry")
NOISE = Noise(0, "boat")
LONG = Canvas(96, 16)  # 6 tokens of 16 px
PAN: dict[str, Any] = {"frame_width": 2, "step": 1}  # 5 frames
SCAN = lay((1, 6), (21, 30, 52), frame=(1, 2), step=1)  # the same


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wan(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Any:
    return wan_small(model=str(folder))


def ours(backbone: Any, canvas: Canvas = LONG, preset: str | None = None, **knobs: Any) -> torch.Tensor:
    backbone.meter.reset()
    given = scrollscape.resolve({"steps": 2, "alignment": "none", **knobs}, preset)
    picture: torch.Tensor = scrollscape.fn(backbone, BOAT, canvas, NOISE, **given)
    return picture


def joined(pieces: Iterable[Piece], scan: Scan, unit: int) -> torch.Tensor:
    whole: torch.Tensor = Parts(*(side * unit for side in scan.covered), fused(pieces, scan, unit)).whole()
    return whole


@pytest.fixture
def clips(backbone: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Tensor]]:
    """All latents that are decoded."""
    seen: list[torch.Tensor] = []
    decode = backbone.decode
    monkeypatch.setattr(backbone, "decode", lambda latents: seen.append(latents) or decode(latents))
    return seen


# -- identities


def test_one_frame_is_direct_video_with_one_frame_to_the_last_bit(backbone: Any) -> None:
    canvas = Canvas(48, 32)
    plain = direct_video.fn(backbone, BOAT, canvas, NOISE, steps=2)
    for tap in ("anchor", "image", "none"):
        assert torch.equal(ours(backbone, canvas, tap=tap), plain)
    assert not torch.equal(ours(backbone, canvas, tap="image", frame_width=2), plain)


def test_vanilla_is_wans_own_clip_and_positions_on_the_canvas_make_another(
    backbone: Any, clips: list[torch.Tensor]
) -> None:
    direct_video.fn(backbone, BOAT, Canvas(32, 16), NOISE, steps=2, frames=17)
    ours(backbone, preset="vanilla", **PAN)
    ours(backbone, preset="vanilla", **PAN, positions="scan")
    own, vanilla, placed = clips
    assert own.shape == (1, 16, 5, 2, 4)
    assert torch.equal(vanilla, own)
    assert float((placed - own).abs().max()) > 2 * sampled(backbone, 2, 5.0)


def test_canvases_end_at_no_table_while_positions_are_computed(backbone: Any) -> None:
    far = Canvas(640, 16)  # 40 tokens where the table has 32
    picture = ours(backbone, far, frame_width=2, step=1, tap="image")  # and 39 frames
    assert picture.shape == (3, 16, 640)
    assert ours(backbone, far).shape == (3, 16, 640)  # one frame as long
    assert backbone.meter.nfe == 2 * 2
    with pytest.raises(UsageError, match="positions for 32 tokens an axis"):
        direct_video.fn(backbone, BOAT, far, NOISE, steps=2)  # the table is back


def test_frames_begin_with_one_canvas_of_noise_unless_told(backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[torch.Tensor] = []
    guided = backbone.guided
    monkeypatch.setattr(backbone, "guided", lambda x, *more: begun.append(x.clone()) or guided(x, *more))
    for shared in (True, False):
        ours(backbone, **PAN, steps=1, tap="none", shared_noise=shared)
    canvas = NOISE.normal("canvas", (1, 16, 1, 2, 12))[:, :, 0]
    assert torch.equal(begun[0][0].transpose(0, 1), gather(canvas, SCAN.windows(2)))
    assert torch.equal(begun[1], NOISE.normal("canvas", (1, 16, 5, 2, 4)))
    assert not torch.equal(begun[0], begun[1])


def test_synchronised_predictions_keep_overlaps_equal_and_others_part(backbone: Any, clips: list[torch.Tensor]) -> None:
    for sync in (1, 0):
        ours(backbone, **PAN, sync=sync, tap="none", steps=3)
    apart = [float((clip[:, :, 0, :, 2:] - clip[:, :, 1, :, :2]).abs().max()) for clip in clips]
    assert apart[0] < rounding(float(clips[0].abs().max()), 3 * 3)  # three steps of three terms
    assert apart[1] > 1e-3


def test_every_row_of_the_ablation_makes_another_picture(backbone: Any) -> None:
    assert set(scrollscape.presets) == {"full", "without-scrollsr", "without-tap", "untrained", "vanilla"}
    rows = [scrollscape.presets[name] for name in ("untrained", "vanilla", "without-tap")]
    made = [ours(backbone, **{**PAN, **row, "model": "none", "alignment": "none"}) for row in rows]
    assert not any(torch.equal(made[i], made[j]) for i in range(3) for j in range(i))


@pytest.mark.parametrize(("canvas", "scan"), [(Canvas(16, 96), "down"), (Canvas(64, 48), "snake")])
def test_other_ways_of_the_camera_fill_their_canvas_and_leave_no_trace(
    backbone: Any, canvas: Canvas, scan: str
) -> None:
    probe = Probe(backbone)
    frame = {"frame_height": 2} if scan == "down" else {"frame_height": 2, "frame_width": 2}
    picture = ours(backbone, canvas, scan=scan, step=1, tap="image", **frame)
    assert picture.shape == (3, canvas.height, canvas.width)
    assert picture.isfinite().all()
    assert backbone.meter.nfe == 2 * 2  # one clip, whatever its frames
    assert probe.changes() == []


# -- from clip to picture


@pytest.mark.parametrize(("size", "mode"), [((2, 9), "right"), ((9, 2), "down"), ((5, 7), "snake")])
def test_a_known_panorama_cut_into_frames_comes_back(size: tuple[int, int], mode: str) -> None:
    scan, unit = lay(size, (4, 3, 3), mode), 4
    truth = torch.randint(0, 256, (3, *(n * unit for n in scan.covered)), generator=torch.Generator().manual_seed(0))
    frames = gather(truth[None] / 255, scan.windows(unit)).transpose(0, 1)
    whole = [Piece(t, 0, 0, frame[:, None]) for t, frame in enumerate(frames.unbind(1))]
    right = frames[..., 5:]
    tiles = [Piece(0, 0, 0, frames[..., :5]), Piece(0, 0, 5, right[:, :2]), Piece(2, 0, 5, right[:, 2:])]
    for pieces in (whole, tiles):
        made = joined(pieces, scan, unit)
        torch.testing.assert_close(made, truth / 255, atol=rounding(1.0, 2 * len(whole)), rtol=0)
        assert torch.equal((255 * made).round(), truth.float())
    backwards = joined([p._replace(first=len(whole) - 1 - p.first) for p in whole], scan, unit)
    assert float((backwards - truth / 255).abs().max()) > 0.1  # the control: frames in another order


@pytest.mark.parametrize("n", [3, 4, 5])
def test_an_outlier_is_never_what_a_block_agrees_on(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    picture = torch.rand(3, 1, 6, 8, generator=generator)
    near_by = (picture + 0.01 * torch.randn(3, n, 6, 8, generator=generator)).clamp(0, 1)
    for outlier in range(n):
        block = near_by.clone()
        block[:, outlier] = torch.rand(3, 6, 8, generator=generator)
        chosen = consensus(block)
        matches = [torch.equal(chosen, block[:, i]) for i in range(n)]
        assert sum(matches) == 1
        assert not matches[outlier]
        assert float((block.mean(dim=1) - chosen).abs().max()) > 0.05  # the control: a mean is dragged along
    assert torch.equal(consensus(near_by[:, :1]), near_by[:, 0])


def test_anchored_frames_are_decoded_without_looking_at_other_places(backbone: Any) -> None:
    clip = torch.randn(1, 16, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    moved = clip.clone()
    moved[:, :, 0] += 1
    lengths = {"anchor": [4, 4, 4], "image": [1, 1, 1], "none": [1, 4, 4]}
    with torch.no_grad():
        for tap, expected in lengths.items():
            blocks, others = (list(decoded(backbone, c, tap)) for c in (clip, moved))
            assert [b.shape[1] for b in blocks] == expected
            assert not torch.equal(blocks[0], others[0])
            assert torch.equal(blocks[1], others[1]) is (tap != "none")  # the control: the clip as it is looks back
        still = clip[:, :, 1:2]
        assert torch.equal(list(decoded(backbone, clip, "image"))[1], backbone.decode(still)[0])
        assert torch.equal(
            list(decoded(backbone, clip, "anchor", 3))[1],
            backbone.decode(still.expand(-1, -1, 3, -1, -1))[0, :, 1:],
        )


def test_frames_are_enlarged_one_by_one_and_joined_at_their_new_size(backbone: Any, clips: list[torch.Tensor]) -> None:
    knobs = {**PAN, "tap": "image"}
    made = ours(backbone, Canvas(384, 64), model="world-upscaler", scale=4.0, tile=0, **knobs)
    assert made.shape == (3, 64, 384)
    network = upscaler.load(upscaler.locate("world-upscaler"), "cpu", torch.float32)
    with torch.no_grad():
        frames = [network(backbone.decode(z)[0, :, 0]).clamp(0, 1) for z in clips[:5]]
    expected = joined((Piece(t, 0, 0, f[:, None]) for t, f in enumerate(frames)), SCAN, 64)
    torch.testing.assert_close(made, expected.clamp(0, 1), atol=rounding(1.0, 10), rtol=0)
    half = ours(backbone, Canvas(192, 32), model="world-upscaler", scale=2.0, **knobs)  # 4 times, and resized down
    assert half.shape == (3, 32, 192)
    with pytest.raises(UsageError, match=r"scale is from 1 to 4, or none .*; got 5"):
        ours(backbone, model="world-upscaler", scale=5.0)
    with pytest.raises(UsageError, match=r"scale=2\.0 needs a network that enlarges, such as model=flashvsr"):
        ours(backbone, scale=2.0)


def test_flashvsr_sees_the_frames_as_one_clip(backbone: Any, clips: list[torch.Tensor], tmp_path: Path) -> None:
    name = f"flashvsr-v1.1:{write_flashvsr(tmp_path)}"
    made = ours(
        backbone, Canvas(24 * 64, 64), model=name, scale=4.0, frame_width=2, step=1, tap="image", steps=1, guidance=1.0
    )
    with torch.no_grad():
        frames = torch.stack([backbone.decode(z)[0, :, 0] for z in clips[:23]], dim=1)
        large = assemble(load(name, "cpu", "fp32", torch.float32)(frames, NOISE, 256, 160), 23, 64, 128)
    scan = lay((1, 24), (21, 30, 52), frame=(1, 2), step=1)
    expected = joined([Piece(0, 0, 0, large)], scan, 64).clamp(0, 1)
    torch.testing.assert_close(made, expected, atol=rounding(1.0, 10), rtol=0)
    backwards = joined([Piece(0, 0, 0, large.flip(1))], scan, 64).clamp(0, 1)
    assert float((made - backwards).abs().max()) > 0.1  # the control: frames in another order


def test_a_large_picture_is_handed_on_frame_by_frame_and_is_the_same(
    backbone: Any, clips: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    knobs = {**PAN, "tap": "image", "model": "world-upscaler", "scale": 4.0, "tile": 0}
    whole = ours(backbone, Canvas(384, 64), **knobs)
    monkeypatch.setattr("bench.types.WHOLE", 384 * 64 - 1)
    clips.clear()
    made: Any = ours(backbone, Canvas(384, 64), **knobs)
    assert isinstance(made, Parts)
    assert clips == []  # nothing is decoded before it is asked for
    parts = iter(made)
    first = next(parts)
    assert (len(clips), first[2].shape) == (1, (3, 64, 128))
    assert torch.is_grad_enabled()  # between parts the caller's settings are its own
    rest = list(parts)
    assert len(clips) == 5
    assert torch.equal(Parts(64, 384, [first, *rest]).whole().clamp(0, 1), whole)
    assert not torch.equal(Parts(64, 384, rest).whole().clamp(0, 1), whole)
    assert set(backbone.meter.seconds) >= {"denoise", "decode", "upscale"}
    base = " ".join(f"{k}={v}" for k, v in {**knobs, "steps": 2, "alignment": "none"}.items())
    given = upscale_video.resolve({"base": f"scrollscape {base}", "model": "world-upscaler", "scale": 1.0})
    assert torch.equal(upscale_video.fn(backbone, BOAT, Canvas(384, 64), NOISE, **given), whole)
    resized = ours(backbone, Canvas(192, 32), **{**knobs, "scale": 2.0})  # not large
    assert isinstance(resized, torch.Tensor)


# -- aligned weights


@pytest.fixture(scope="module")
def alignment(backbone: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(0)
    made = lora.fresh(lora.layers(backbone.transformer, ADAPTED), 2, lambda s: torch.randn(s, generator=generator))
    path = tmp_path_factory.mktemp("aligned") / "some.safetensors"
    lora.save({n: p._replace(b=torch.randn(p.b.shape, generator=generator) / 4) for n, p in made.items()}, path)
    return path


def test_aligned_weights_act_and_a_recipe_names_them_by_their_content(backbone: Any, alignment: Path) -> None:
    before, made, after = (
        ours(backbone, **PAN, alignment=name, tap="image") for name in ("none", str(alignment), "none")
    )
    assert float((made - before).abs().max()) > 1e-3
    assert torch.equal(after, before)
    named = scrollscape.requires(lambda: backbone, LONG, scrollscape.resolve({"alignment": str(alignment)}))
    assert named == {"alignment": lora.digest(alignment)}
    assert scrollscape.requires(lambda: backbone, LONG, scrollscape.resolve({"alignment": "none"})) == {}


def test_without_them_what_to_do_is_said(backbone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for asked in (lambda k: ours(backbone, **k), lambda k: scrollscape.requires(lambda: backbone, LONG, k)):
        with pytest.raises(PrerequisiteError, match=r"scrollscape-wan-1\.3b\.safetensors.*Preset untrained"):
            asked(scrollscape.resolve({"steps": 2}))
    assert backbone.meter.nfe == 0


# -- what is refused, and full size

SUITE = """
name = "one"
version = "1"
tier = "full"
backbone = "wan-1.3b"
seeds = [0]
[backbone_options]
model = "{folder}"
[[parts]]
name = "wide"
width = {width}
height = 16
prompts = "prompts.jsonl"
[[methods]]
ref = "scrollscape"
[methods.set]
alignment = "none"
{more}
"""


@pytest.mark.parametrize(
    ("more", "width", "message"),
    [
        ('scan = "snail"', 96, "unknown scan 'snail'; did you mean 'snake'"),
        ('tap = "anchors"', 96, "scrollscape: unknown tap 'anchors'; did you mean 'anchor'"),
        ("frame_width = 7", 96, "frame_width is 1 to 6 tokens, the canvas's width; got 7; nearest: 6"),
        ("step = 3\nframe_width = 2", 96, "step is 1 to 2 tokens"),
        ("", 100, "width must be a multiple of 16, got 100; nearest: 96 or 112"),
        ("repeats = 1", 96, "repeats is at least 2, got 1"),
        ('model = "flashvsr-v1.2"', 96, "flashvsr"),
    ],
)
def test_what_cannot_work_is_refused_when_the_plan_is_made(
    tmp_path: Path, folder: Path, more: str, width: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.backbones.wan.load_low", lambda *a: pytest.fail("loaded"))
    with pytest.raises(UsageError, match=message):
        make_plan(small(tmp_path, SUITE.format(folder=folder, width=width, more=more)), Store(tmp_path / "store"))


def test_loops_and_other_networks_are_refused(backbone: Any) -> None:
    with pytest.raises(UsageError, match="scrollscape cannot make a loop"):
        ours(backbone, Canvas(96, 16, loop=True))
    with pytest.raises(UsageError, match="works inside Wan's transformer; backbone flux-dev has none"):
        scrollscape.requires(lambda: SimpleNamespace(name="flux-dev"), LONG, scrollscape.resolve({}))
    with pytest.raises(UsageError, match=r"cannot be outlined .*; scrollscape works inside Wan's transformer: use"):
        scrollscape.requires(sd35_medium.outline, LONG, scrollscape.resolve({}))
    assert find("methods", "scrollscape").family == "video"


def test_32k_passes_on_the_meta_device_at_full_size() -> None:
    wan = wan_small.skeleton(precision="bf16")
    shallow(*wan.parts.values())
    wan.decode = remembered(wan.decode, Tally(), wan.meter)  # 78 frames of one shape
    picture = ours(wan, Canvas(32768, 512), alignment="")
    assert (picture.device.type, picture.shape) == ("meta", (3, 512, 32768))
    assert wan.meter.nfe == 4
