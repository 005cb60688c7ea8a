"""A small picture enlarged by a network: the released tiles, sizes, loops, identity, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.errors import PrerequisiteError, UsageError
from bench.noise import Noise
from bench.pipeline.plan import make_plan
from bench.registry import find
from bench.store import Store
from bench.suites.load import load_suite
from bench.types import Canvas, Prompt
from methods.backbones.stable_diffusion import StableDiffusion
from methods.direct import direct
from methods.multidiffusion import multidiffusion
from methods.shared.upscaler import RRDB, Upscaler, blank, load, locate, rrdb
from methods.upscale import called, enlarged, small, upscale
from tests.support.golden_cases import BOUND, GOLDENS
from tests.support.small import SUITE, write_suite

SEA, NOISE = Prompt("sea", "a calm sea, one red boat"), Noise(0, "sea")


def write_rrdb(file: Path, unshuffled: bool = False, blocks: int = 2) -> Path:
    """A small random network under the released names, inside the dict that releases come in."""
    draws = torch.Generator().manual_seed(1)
    shapes = rrdb(blocks, unshuffled, features=16)
    state = {name: torch.randn(shape, generator=draws) / 12 for name, shape in shapes.items()}
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save({"params": {}, "params_ema": state} if blocks == 2 else {"params": state}, file)
    return file


@pytest.fixture(scope="module")
def x4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rrdb(tmp_path_factory.mktemp("x4") / "x4.pth")


@pytest.fixture(scope="module")
def backbone() -> StableDiffusion:
    return find("backbones", "world-sd")()


@pytest.fixture(scope="module")
def tiles() -> dict[str, Any]:
    with np.load(GOLDENS / "cases" / "esrgan_tiles.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


@pytest.fixture(scope="module")
def srvgg(tmp_path_factory: pytest.TempPathFactory) -> Upscaler:
    file = tmp_path_factory.mktemp("srvgg") / "tiny.pth"
    torch.save({"params": load_file(GOLDENS / "weights" / "srvgg_tiny.safetensors")}, file)
    return load(locate(str(file)), "cpu", torch.float64)


@pytest.mark.parametrize(("name", "tile"), [("tiled", 8), ("whole", 0)])
def test_tiles_and_padding_equal_the_released_code(
    tiles: dict[str, Any], srvgg: Upscaler, name: str, tile: int
) -> None:
    picture = tiles["image"].permute(2, 0, 1).double() / 255
    ours = srvgg(picture, tile, 2)
    assert ours.shape == tiles[name].shape
    assert float((ours - tiles[name]).abs().max()) < BOUND
    assert float((srvgg(picture, 16 if tile else 8, 2) - tiles[name]).abs().max()) > 1e-3  # the control: other tiles


def test_tiles_that_see_as_far_as_the_network_leave_no_trace(srvgg: Upscaler) -> None:
    picture = torch.rand((3, 26, 38), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = srvgg(picture)
    for tile in (6, 8, 20):  # four convolutions see four pixels
        assert float((srvgg(picture, tile, 4) - whole).abs().max()) < 1e-12
    assert float((srvgg(picture, 8, 2) - whole).abs().max()) > 1e-3  # the control: they see less


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("unshuffled", [False, True])
def test_both_released_layouts_are_read_and_enlarge_by_their_factor(
    tmp_path: Path, suffix: str, unshuffled: bool
) -> None:
    file = str(write_rrdb(tmp_path / f"net{suffix}", unshuffled))
    upscaler = load(locate(file), "cpu", torch.float32)
    assert upscaler.scale == blank(file).scale == (2 if unshuffled else 4)
    assert upscaler(torch.rand(3, 11, 7)).shape == (3, 11 * upscaler.scale, 7 * upscaler.scale)


@pytest.mark.parametrize("name", RRDB)
def test_the_released_networks_have_their_published_size(name: str) -> None:
    network = blank(name).network
    tensors = {"real-esrgan-x4plus": 702, "real-esrgan-x2plus": 702, "real-esrgan-x4plus-anime": 192}
    parameters = {"real-esrgan-x4plus": 16_697_987, "real-esrgan-x4plus-anime": 4_467_779}
    assert len(network.state_dict()) == tensors[name]
    if name in parameters:
        assert sum(p.numel() for p in network.parameters()) == parameters[name]


def test_the_small_picture_is_the_base_methods_own(backbone: StableDiffusion, x4: Path) -> None:
    made = upscale.fn(
        backbone, SEA, Canvas(256, 64), NOISE, base="direct steps=2 guidance=3", scale=4.0, model=str(x4), tile=0
    )
    base = direct.fn(backbone, SEA, Canvas(64, 16), NOISE, steps=2, guidance=3.0)
    network = load(locate(str(x4)), "cpu", torch.float32)
    assert made.shape == (3, 64, 256)
    torch.testing.assert_close(made, network(base).clamp(0, 1), rtol=0, atol=1e-6)
    other = direct.fn(backbone, SEA, Canvas(64, 16), NOISE, steps=2, guidance=4.0)
    assert float((made - network(other).clamp(0, 1)).abs().max()) > 1e-3  # the control: another small picture


def test_the_small_picture_has_the_native_area_unless_told(backbone: StableDiffusion) -> None:
    assert small(backbone, Canvas(256, 32), None) == Canvas(92, 12)  # 1024 pixels at 8:1, in whole cells of 4
    assert small(backbone, Canvas(256, 32), 2.0) == Canvas(128, 16)
    assert small(backbone, Canvas(32, 16), None) == Canvas(32, 16)  # never larger than what is asked for


def test_sizes_between_the_factors_and_repeated_passes_come_out_exact(x4: Path) -> None:
    network = load(locate(str(x4)), "cpu", torch.float32)
    picture = torch.rand(3, 4, 8)
    for canvas in (Canvas(32, 16), Canvas(24, 12), Canvas(40, 20), Canvas(8, 4)):
        made = enlarged(network, picture, canvas, 0, 8)
        assert made.shape == (3, canvas.height, canvas.width)
        assert torch.equal(made, made.clamp(0, 1))
    assert torch.equal(enlarged(network, picture, Canvas(8, 4), 0, 8), picture)


def test_a_loop_is_enlarged_as_a_loop(x4: Path) -> None:
    network = load(locate(str(x4)), "cpu", torch.float64)
    picture = torch.rand((3, 6, 24), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned = picture.roll(12, -1)

    def gap(loop: bool) -> float:
        a, b = (enlarged(network, p, Canvas(96, 24, loop), 0, 24) for p in (picture, turned))
        return float((a.roll(48, -1) - b).abs().max())

    assert gap(True) < 1e-4 < 1e-2 < gap(False)  # the control: without the margin the seam shows


def test_any_method_of_the_family_makes_the_small_picture() -> None:
    found, knobs = called("multidiffusion:stride-16 steps=3", "latent")
    assert found.fn is multidiffusion.fn
    assert knobs == multidiffusion.resolve({"steps": 3}, "stride-16")


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("directt", "did you mean"),
        ("direct-tokens", "upscale-tokens takes it"),
        ("upscale", "enlarges already"),
        ("direct:sdxxl", "no preset"),
        ("direct stepps=3", "no knob"),
        ("direct steps=many", "takes int"),
        ("direct 20", "KNOB=VALUE"),
        ("", "unknown method"),
    ],
)
def test_a_base_that_cannot_be_used_is_refused_before_anything_is_made(
    backbone: StableDiffusion, base: str, said: str
) -> None:
    backbone.meter.reset()
    with pytest.raises(UsageError, match=said):
        upscale.fn(backbone, SEA, Canvas(64, 32), NOISE, base=base)
    assert backbone.meter.nfe == 0


def test_networks_that_cannot_be_used_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(PrerequisiteError, match="scrollbench weights fetch real-esrgan-x4plus"):
        locate("real-esrgan-x4plus")
    with pytest.raises(UsageError, match="real-esrgan-x4plus"):
        locate("real-esrgan-x4")
    with pytest.raises(UsageError, match="no file"):
        locate(str(tmp_path / "absent.pth"))
    (tmp_path / "text.pth").write_text("not weights")
    save_file({"a.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name in ("text.pth", "other.safetensors"):
        with pytest.raises(UsageError, match="no upscaler that can be used"):
            load(locate(str(tmp_path / name)), "cpu", torch.float32)


def test_a_pickle_that_would_run_code_is_not_read(tmp_path: Path) -> None:
    torch.save({"params": np.save}, tmp_path / "evil.pth")
    with pytest.raises(UsageError, match="no upscaler that can be used"):
        load(locate(str(tmp_path / "evil.pth")), "cpu", torch.float32)


def test_tiles_that_would_cut_the_networks_blocks_are_refused(tmp_path: Path) -> None:
    x2 = load(locate(str(write_rrdb(tmp_path / "x2.pth", unshuffled=True))), "cpu", torch.float32)
    with pytest.raises(UsageError, match="multiples"):
        x2(torch.rand(3, 16, 16), 7, 2)


def test_base_and_weights_are_part_of_the_identity_and_where_they_lie_is_not(tmp_path: Path) -> None:
    def recipe(model: Path, base: str = "direct") -> str:
        told = f'ref = "upscale"\nset = {{ base = "{base}", model = "{model}" }}'
        suite = write_suite(tmp_path, SUITE.replace('ref = "plugins.py@latent-grain"', told))
        plan = make_plan(load_suite(str(suite)), Store(tmp_path / "store"))
        return next(j.recipe_id for j in plan.wanted if j.recipe.method == "upscale")

    one, two = write_rrdb(tmp_path / "one.pth"), write_rrdb(tmp_path / "two.pth", blocks=3)
    copied = tmp_path / "copied.pth"
    copied.write_bytes(one.read_bytes())
    assert recipe(one) == recipe(copied)
    assert len({recipe(one), recipe(two), recipe(one, "multidiffusion"), recipe(two, "multidiffusion")}) == 4


@pytest.mark.parametrize(
    ("preset", "names"), [("official", "real-esrgan-x4plus"), ("flashvsr", "flashvsr-v1.1 flashvsr-prompt")]
)
def test_weights_that_are_not_here_block_the_method_alone_and_name_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str, names: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    told = f'ref = "upscale"\npreset = "{preset}"'
    suite = write_suite(tmp_path, SUITE.replace('ref = "plugins.py@latent-grain"', told))
    plan = make_plan(load_suite(str(suite)), Store(tmp_path / "store"))
    assert [b.label for b in plan.blocked] == ["latent"]
    assert f"scrollbench weights fetch {names}" in plan.blocked[0].reason
    assert len(plan.wanted) == 3  # the other method's
