"""SyncDiffusion against the authors' numbers, the identities it must obey, and what it takes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from close import products, rounding
from golden_cases import BOUND, Case
from tiny import lpips as tiny_lpips

from bench.errors import PrerequisiteError, UsageError
from bench.meta import counting
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones.stable_diffusion import from_pretrained, sd20, world_sd
from methods.canvas import start
from methods.direct import direct
from methods.gradients import checkpointing, perceptual_loss
from methods.multidiffusion import multidiffusion, multidiffusion_latents
from methods.syncdiffusion import closing, syncdiffusion, syncdiffusion_latents
from methods.windows import Window, grid

BOAT = Prompt("boat", "a boat under one moon")
CASES = ["sync_basic", "sync_freq2_thres3", "sync_loop_closure"]


class Stub:
    """The loss of the golden cases; keeps its values in the order of calls."""

    def __init__(self, case: Case) -> None:
        self.weight, self.scale = case.arrays["loss_conv_weight"], case.entry["loss"]["loss_scale"]
        self.values: list[float] = []

    def __call__(self, pictures: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        gap = torch.nn.functional.conv2d(pictures - target, self.weight, padding=1)
        found = self.scale * gap.square().mean((1, 2, 3))
        self.values += found.tolist()
        return found


def views(case: Case) -> list[Window]:
    """The windows of a case, wrapped ones included."""
    if case.settings["loop_closure"]:
        return closing(case.grid(), case.size[1], case.side, case.stride)
    return case.grid()


def replay(case: Case, windows: list[Window] | None = None, guided: Any = None, **changes: Any) -> dict[str, Any]:
    """Replay a case by the public function, with deliberate changes of its settings."""
    s = case.settings
    knobs = {
        "weight": s["sync_weight"], "decay": s["sync_decay_rate"], "threshold": s["sync_thres"],
        "frequency": s["sync_freq"], "loss": Stub(case), **changes,
    }  # fmt: skip
    loss = knobs.pop("loss")
    found = views(case) if windows is None else windows

    def sample(network: Any, scheduler: Any, canvas: torch.Tensor, after: Any) -> torch.Tensor:
        return syncdiffusion_latents(
            network, case.backbone.decode, loss, scheduler, canvas, found, after_step=after, **knobs
        )

    return case.run(sample, guided)


@pytest.mark.parametrize("name", CASES)
def test_latents_and_losses_equal_those_of_the_released_code(name: str) -> None:
    case = Case(name)
    loss = Stub(case)
    assert len(views(case)) == case.entry["number_of_views"]
    off = case.off(replay(case, loss=loss))
    assert off < BOUND
    assert off < case.entry["suggested_tolerance"]
    expected = case.arrays["loss_values"].numpy()  # kept by the released code as float32
    np.testing.assert_allclose(loss.values, expected, rtol=3e-7, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("changes", "mistake"), [({"weight": 0.0}, "no synchronisation"), ({"decay": 1.0}, "no decay of w")]
)
def test_wrong_weights_are_caught_and_off_by_as_much_as_expected(
    name: str, changes: dict[str, float], mistake: str
) -> None:
    case = Case(name)
    off = case.final_off(replay(case, **changes))
    assert off > 1000 * BOUND
    assert off == pytest.approx(case.mistake(mistake), abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_stepping_with_the_first_prediction_is_caught_and_off_by_as_much_as_expected(name: str) -> None:
    case = Case(name)
    kept: list[torch.Tensor] = []

    def one_pass(x: torch.Tensor, t: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            kept.append(case.guided(x, t))
            return kept[-1]
        return kept.pop().detach() if kept else case.guided(x, t)

    off = case.final_off(replay(case, guided=one_pass))
    assert off == pytest.approx(case.mistake("stepping with the first noise prediction"), abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_of_unit_length_is_caught_and_off_by_as_much_as_expected(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, real = Case(name), torch.autograd.grad

    def unit(value: Any, x: Any, outer: Any = None) -> Any:
        (g,) = real(value, x, outer)
        return (g if outer is None else g / g.flatten(1).norm(dim=1).clamp(min=1e-30)[:, None, None, None],)

    monkeypatch.setattr(torch.autograd, "grad", unit)
    off = case.final_off(replay(case))
    assert off == pytest.approx(case.mistake("gradient normalised to unit norm"), abs=1e-6)


def test_other_wrapped_windows_are_caught_and_off_by_as_much_as_expected() -> None:
    case = Case("sync_loop_closure")
    assert case.final_off(replay(case, case.grid())) == pytest.approx(case.mistake("no wrapped views"), abs=1e-6)
    ring = case.grid(loop=True)
    assert len(ring) == len(views(case)) + 1
    assert case.final_off(replay(case, ring)) == pytest.approx(case.mistake("one more wrapped view"), abs=1e-6)


@pytest.mark.parametrize("sizes", [{"chunk": 1}, {"chunk": 2, "decoded": 2}, {"chunk": 1000, "decoded": 1000}])
def test_results_do_not_depend_on_how_many_windows_are_in_memory(sizes: dict[str, int]) -> None:
    case = Case("sync_freq2_thres3")
    case.backbone.batch = 3
    assert case.off(replay(case, **sizes)) < 1e-9


def test_results_do_not_depend_on_the_order_of_windows_but_on_the_anchor() -> None:
    case = Case("sync_freq2_thres3")
    backwards = views(case)[::-1]
    assert len(backwards) % 2 == 1  # so that the middle stays the middle
    assert case.off(replay(case, backwards)) < 1e-9
    assert case.off(replay(case, anchor=0)) > 1e-3


def test_gradients_through_recomputed_blocks_are_the_same() -> None:
    case = Case("sync_freq2_thres3")
    with checkpointing(case.backbone, "syncdiffusion"):
        assert case.backbone.unet.is_gradient_checkpointing
        assert case.off(replay(case)) < 1e-9
    assert not case.backbone.unet.is_gradient_checkpointing


@pytest.mark.parametrize("changes", [{"weight": 0.0}, {"threshold": 0}, {"frequency": 1000}])
def test_nothing_to_pull_is_multidiffusion(changes: dict[str, Any]) -> None:
    case = Case("sync_basic")
    off = replay(case, **changes)["final_latent"]
    plain = case.run(lambda g, scheduler, x, after: multidiffusion_latents(g, scheduler, x, views(case)))
    assert torch.equal(off, plain["final_latent"])
    assert not torch.equal(replay(case)["final_latent"], plain["final_latent"])


def test_a_ring_turned_by_a_stride_with_its_anchor_gives_the_picture_turned_by_it() -> None:
    case = Case("sync_loop_closure")
    ring = case.grid(loop=True)
    straight = replay(case, ring, anchor=4)["final_latent"]
    case.arrays["canvas"] = case.arrays["canvas"].roll(case.stride, -1)
    turned = replay(case, ring, anchor=5)["final_latent"]
    assert float((turned - straight.roll(case.stride, -1)).abs().max()) < 1e-8
    assert float((replay(case, ring, anchor=4)["final_latent"] - turned).abs().max()) > 1e-3
    uneven = replay(case, anchor=4)["final_latent"]  # the released closure covers one place less
    assert float((uneven - turned).abs().max()) > 1e-3


def test_a_linear_denoiser_gives_the_closed_form() -> None:
    """With noise prediction P over every window, D the identity and L = |a - b|^2, all is linear.

    clean(x) = (x - s P) / r with r^2 = abar, s^2 = 1 - abar, so that the pull is 8 (x_i - x_a) / abar; DDIM is
    x' = a x + b P.
    """
    case = Case("sync_basic")
    windows = [Window(0, x, 4, 4) for x in (0, 2, 4, 6, 8)]
    generator = torch.Generator().manual_seed(3)
    pattern = torch.randn(4, 4, 4, dtype=torch.float64, generator=generator)
    canvas = torch.randn(1, 4, 4, 12, dtype=torch.float64, generator=generator)
    scheduler: Any = case.backbone.scheduler(5)

    def run(decay: float) -> np.ndarray:
        with torch.no_grad():
            found = syncdiffusion_latents(
                lambda x, t: pattern.expand_as(x), lambda z: z, lambda a, b: (a - b).square().sum((1, 2, 3)),
                case.backbone.scheduler(5), canvas, windows, weight=1e-3, decay=decay, threshold=3,
            )  # fmt: skip
        return found.numpy()[0]

    expected = canvas.numpy()[0]
    abar = [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps] + [float(scheduler.final_alpha_cumprod)]
    for i, (now, then) in enumerate(pairwise(abar)):
        scale = (then / now) ** 0.5
        total, count = np.zeros((4, 4, 12)), np.zeros(12)
        for v in windows:
            x, anchor = expected[:, :, v.x : v.x + 4], expected[:, :, 4:8]
            if i < 3:
                x = x - 1e-3 * 0.5**i * 8 * (x - anchor) / now
            total[:, :, v.x : v.x + 4] += scale * x + ((1 - then) ** 0.5 - scale * (1 - now) ** 0.5) * pattern.numpy()
            count[v.x : v.x + 4] += 1
        expected = total / count
    np.testing.assert_allclose(run(0.5), expected, rtol=0, atol=1e-9)
    assert np.abs(run(0.6) - expected).max() > 1e-3


# -- the method on a backbone


@pytest.fixture(scope="module")
def loss(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random LPIPS network by its reference."""
    return f"lpips@{tiny_lpips(tmp_path_factory.mktemp('lpips'))}"


def test_one_window_is_direct_sampling(tiny_sd: Path, loss: str) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    canvas, noise = Canvas(32, 32), Noise(0, BOAT.id)
    one = syncdiffusion.fn(backbone, BOAT, canvas, noise, steps=3, window=8, loss=loss)
    assert torch.equal(one, direct.fn(backbone, BOAT, canvas, noise, steps=3))
    assert not torch.equal(one, direct.fn(backbone, BOAT, canvas, noise, steps=4))


@pytest.mark.parametrize("canvas", [Canvas(64, 32), Canvas(32, 64), Canvas(48, 48)])
def test_weight_zero_is_multidiffusion_on_every_kind_of_canvas(tiny_sd: Path, loss: str, canvas: Canvas) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    knobs = {"steps": 2, "window": 8, "stride": 4}
    plain = multidiffusion.fn(backbone, BOAT, canvas, Noise(0, "a"), **knobs)
    assert torch.equal(plain, syncdiffusion.fn(backbone, BOAT, canvas, Noise(0, "a"), weight=0, loss=loss, **knobs))
    pulled = syncdiffusion.fn(backbone, BOAT, canvas, Noise(0, "a"), loss=loss, **knobs)
    assert pulled.shape == (3, canvas.height, canvas.width)
    assert not torch.equal(plain, pulled)


def test_the_method_is_its_inner_loop_with_the_official_numbers(tiny_sd: Path, loss: str) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    made = syncdiffusion.fn(backbone, BOAT, Canvas(64, 32), Noise(7, BOAT.id), steps=3, window=8, loss=loss)
    with torch.no_grad():
        scheduler, conditioning = backbone.scheduler(3), backbone.condition(BOAT.text)
        latents = syncdiffusion_latents(
            lambda x, t: backbone.guided(x, t, conditioning, 7.5), backbone.decode, perceptual_loss(loss, backbone),
            scheduler, start(backbone, scheduler, Noise(7, BOAT.id), (8, 16)), grid(8, 16, 8, 2),
            weight=20, decay=0.95, threshold=50, frequency=1, chunk=16, decoded=256,
        )  # fmt: skip
        assert torch.equal(made, backbone.decode(latents)[0])


def test_evaluations_are_two_passes_and_one_for_the_anchor(tiny_sd: Path, loss: str) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    knobs = {"steps": 3, "window": 8, "stride": 4, "loss": loss}
    syncdiffusion.fn(backbone, BOAT, Canvas(64, 32), Noise(0, "a"), **knobs)
    assert backbone.meter.cost().nfe == 2 * 3 * (2 * 3 + 1)
    assert set(backbone.meter.cost().seconds) == {"text", "denoise", "decode"}
    backbone.meter.reset()
    syncdiffusion.fn(backbone, BOAT, Canvas(64, 32), Noise(0, "a"), threshold=1, **knobs)
    assert backbone.meter.cost().nfe == 2 * (3 * 3 + 3 + 1)


def test_on_the_miniature_the_loss_is_its_own_and_the_record_says_so() -> None:
    backbone = world_sd()
    made = syncdiffusion.fn(backbone, BOAT, Canvas(64, 32), Noise(0, "a"), steps=1, stride=4)
    assert "loss=world-lpips" in backbone.meter.flags
    backbone.meter.reset()
    again = syncdiffusion.fn(backbone, BOAT, Canvas(64, 32), Noise(0, "a"), steps=1, stride=4, loss="world-lpips")
    assert torch.equal(made, again)
    assert "loss=world-lpips" in backbone.meter.flags  # also where the network was loaded before


def test_the_perceptual_loss_is_the_distance_that_metrics_measure(tiny_sd: Path, loss: str) -> None:
    from bench import extractors

    backbone = from_pretrained(model=str(tiny_sd))
    generator = np.random.default_rng(0)
    a, b = (generator.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(2))
    pair = torch.from_numpy(np.stack([a, b])).permute(0, 3, 1, 2) / 127.5 - 1
    found = perceptual_loss(loss, backbone)(pair, pair[:1])
    net = extractors.load(loss)
    expected = net.distances([a, b])[0]
    close = rounding(2 * max(1, expected.max()), products(net.model))  # squared differences of unit features
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=close)
    assert found[0] == 0
    assert found[1] > 0


def test_loops_close_as_in_the_released_code_or_evenly(tiny_sd: Path, loss: str) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    knobs = {"steps": 2, "window": 8, "stride": 2, "loss": loss}
    open_, loop, ring = (
        syncdiffusion.fn(backbone, BOAT, Canvas(64, 32, loop=flag), Noise(0, "a"), closure=closure, **knobs)
        for flag, closure in ((False, "official"), (True, "official"), (True, "ring"))
    )
    assert not torch.equal(open_, loop)
    assert not torch.equal(loop, ring)
    assert [v.x for v in closing(grid(8, 16, 8, 2), 16, 8, 2)] == [0, 2, 4, 6, 8, 10, 12]


def test_full_size_panoramas_fit_a_card_of_24_gb() -> None:
    """SD 2.0 in fp16 at 512x5120 with gradients, on shapes; at a stride of a window to be quick.

    All windows in memory at once are the 10 there are; at the default stride it is 16 at a time of 37.
    """
    backbone = sd20.skeleton(precision="fp16")
    with counting() as tally:
        for module in (m for m in backbone.parts.values() if hasattr(m, "parameters")):
            for parameter in module.parameters():
                tally.track(parameter)
        weights = tally.live
        made = syncdiffusion.fn(backbone, BOAT, Canvas(5120, 512), Noise(0, "a"), steps=1, stride=64)
    assert made.shape == (3, 512, 5120)
    assert backbone.meter.nfe == 2 * (10 + 10 + 1)
    assert 3e9 < weights < tally.peak < 13e9


@pytest.mark.parametrize(
    ("canvas", "knobs", "message"),
    [
        (Canvas(64, 16), {}, "height is 16 px, a window is 32 px"),
        (Canvas(60, 32), {"stride": 4}, "nearest that fit: 48 or 64 px"),
        (Canvas(64, 32), {"closure": "offical"}, "did you mean 'official'"),
        (Canvas(64, 32), {"frequency": 0}, "frequency must be at least 1"),
        (Canvas(64, 32), {"window": 4}, "windows of at least 32 px, this one is 16 px: ask for window=8"),
        (Canvas(64, 64, loop=True), {}, "one row of windows"),
        (Canvas(64, 32, loop=True), {"stride": 4}, "strides that close the loop: 1, 2"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_network_is_asked(
    canvas: Canvas, knobs: dict[str, Any], message: str
) -> None:
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=8)  # anything else of a backbone would raise
    with pytest.raises(UsageError, match=message):
        syncdiffusion.fn(idle, BOAT, canvas, Noise(0, "a"), **knobs)


def test_schedulers_that_keep_state_are_refused() -> None:
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=8, scheduler=lambda *_: SimpleNamespace())
    with pytest.raises(UsageError, match="sampler=ddim"):
        syncdiffusion.fn(idle, BOAT, Canvas(64, 32), Noise(0, "a"))


def test_networks_that_are_moved_to_and_fro_are_refused(tiny_sd: Path, loss: str) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    backbone.unet.conv_in._hf_hook = "moves it"
    with pytest.raises(UsageError, match="offload=none"):
        syncdiffusion.fn(backbone, BOAT, Canvas(32, 32), Noise(0, "a"), window=8, loss=loss)


def test_a_loss_that_is_no_distance_or_not_here_is_refused(
    tiny_sd: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="no perceptual distance"):
        syncdiffusion.fn(backbone, BOAT, Canvas(32, 32), Noise(0, "a"), window=8, loss="world-vit")
    with pytest.raises(PrerequisiteError, match="vgg16"):
        syncdiffusion.fn(backbone, BOAT, Canvas(32, 32), Noise(0, "a"), window=8)
    assert backbone.meter.nfe == 0


def test_presets_are_the_function_the_script_and_the_command_line() -> None:
    function = syncdiffusion.resolve({}, "function")
    assert function == syncdiffusion.resolve({})
    assert [function[k] for k in ("steps", "guidance", "stride", "weight", "decay", "threshold", "frequency")] == [
        50, 7.5, None, 20.0, 0.95, 50, 1,
    ]  # fmt: skip
    assert syncdiffusion.resolve({}, "script") == {**function, "threshold": 10}
    said = {"weight": 0.1, "decay": 0.99, "threshold": 40, "stride": 8}
    assert syncdiffusion.resolve({}, "argparse") == {**function, **said}
    assert syncdiffusion.optimises == ("lpips-vgg",)
