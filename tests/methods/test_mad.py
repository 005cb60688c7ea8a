"""MAD against the authors' numbers, the identities it obeys, and its three forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.errors import UsageError
from bench.noise import Noise
from bench.pipeline.meta import counting, remembered
from bench.types import Canvas, Prompt
from methods.backbones.sdxl import sdxl
from methods.backbones.stable_diffusion import StableDiffusion, from_pretrained, sd20
from methods.backbones.tiny.stable_diffusion import tiny_clip
from methods.direct import direct
from methods.mad import Joint, all_windows, mad, mad_latents, mad_lcm_latents
from methods.multidiffusion import multidiffusion, multidiffusion_latents
from methods.shared.attention import embedded_guidance, processors
from methods.shared.canvas import start
from methods.shared.windows import Window, gather, merge
from tests.support.close import sampled
from tests.support.golden_cases import BOUND, Case
from tests.support.tiny_pipelines import tiny_vae, write_sdxl

BOAT = Prompt("boat", "a boat under one moon")
CASES = ["mad_threshold0", "mad_threshold2", "mad_threshold4", "mad_multirow"]


def replay(case: Case, joint: Joint | None = None, threshold: int | None = None) -> dict[str, Any]:
    """Replay a case by the public functions, with deliberate changes of its settings."""
    found = joint or Joint(case.grid(), case.size)
    k = case.settings["mad_threshold"] if threshold is None else threshold
    network = all_windows(case.backbone, case.conditioning, case.settings["guidance_scale"], found)
    with processors(case.backbone.unet, found.wrap):
        return case.run(lambda g, scheduler, x, after: mad_latents(g, scheduler, x, found, k, after), network)


@pytest.mark.parametrize("name", CASES)
def test_latents_equal_those_of_the_released_code(name: str) -> None:
    case = Case(name)
    case.check(replay(case))


@pytest.mark.parametrize(
    ("name", "change"),
    [("mad_threshold0", 1), ("mad_threshold2", 1), ("mad_threshold4", -1), ("mad_multirow", 1)],
)
def test_another_threshold_is_caught_and_off_by_as_much_as_expected(name: str, change: int) -> None:
    case = Case(name)
    off = case.final_off(replay(case, threshold=case.settings["mad_threshold"] + change))
    assert off > 1000 * BOUND
    assert off == pytest.approx(case.mistake(f"threshold{change:+d}"), abs=1e-6)


class OwnQueries(Joint):
    """The mistake of leaving cross-attention in the windows."""

    def wrap(self, inner: Any) -> Callable[..., torch.Tensor]:
        right = super().wrap(inner)

        def process(layer: Any, hidden_states: Any, encoder_hidden_states: Any = None, **rest: Any) -> Any:
            return (right if encoder_hidden_states is None else inner)(
                layer, hidden_states, encoder_hidden_states, **rest
            )

        return process


class MergedOutput(Joint):
    """The mistake of averaging what self-attention of the windows gives, instead of queries, keys and values."""

    def wrap(self, inner: Any) -> Callable[..., torch.Tensor]:
        right = super().wrap(inner)

        average = super().wrap(lambda _, tokens, *__: tokens)

        def process(layer: Any, hidden_states: Any, encoder_hidden_states: Any = None, **rest: Any) -> Any:
            if encoder_hidden_states is not None or not self.merging:
                return right(layer, hidden_states, encoder_hidden_states, **rest)
            return average(layer, inner(layer, hidden_states, None, **rest))

        return process


@pytest.mark.parametrize("name", CASES)
def test_queries_of_the_windows_alone_are_caught_and_off_by_as_much_as_expected(name: str) -> None:
    case = Case(name)
    off = case.final_off(replay(case, OwnQueries(case.grid(), case.size)))
    assert off == pytest.approx(case.mistake("cross-attention queries not merged"), abs=1e-6)


@pytest.mark.parametrize("name", ["mad_threshold2", "mad_threshold4", "mad_multirow"])
def test_an_averaged_output_is_caught_and_off_by_as_much_as_expected(name: str) -> None:
    case = Case(name)
    off = case.final_off(replay(case, MergedOutput(case.grid(), case.size)))
    assert off == pytest.approx(case.mistake("attention output merged"), abs=1e-6)


def test_results_do_not_depend_on_the_order_of_windows() -> None:
    case = Case("mad_multirow")
    assert case.off(replay(case, Joint(case.grid()[::-1], case.size))) < 1e-9


def test_windows_that_do_not_overlap_and_attend_alone_are_multidiffusion() -> None:
    """With no merged self-attention only cross-attention is left on the canvas, whose averages are of one window."""
    case = Case("mad_threshold0")
    apart, lapped = case.grid(stride=case.side), case.grid()
    for windows, same in ((apart, True), (lapped, False)):
        plain = case.run(lambda g, s, x, after, w=windows: multidiffusion_latents(g, s, x, w))["final_latent"]
        joint = replay(case, Joint(windows, case.size), threshold=0)["final_latent"]
        assert (float((plain - joint).abs().max()) < 1e-9) == same
    merged = replay(case, Joint(apart, case.size), threshold=4)["final_latent"]
    assert float((merged - replay(case, Joint(apart, case.size), threshold=0)["final_latent"]).abs().max()) > 1e-3


def test_a_network_without_attention_gives_multidiffusion() -> None:
    """So the closed form of a linear denoiser is MultiDiffusion's."""
    case = Case("mad_threshold2")
    joint, pattern = Joint(case.grid(), case.size), torch.randn(4, 16, 16, dtype=torch.float64)

    def linear(x: torch.Tensor, t: Any) -> torch.Tensor:
        return 0.1 * x + pattern

    joined = case.run(lambda g, s, x, after: mad_latents(g, s, x, joint, 2, after), linear)["final_latent"]
    plain = case.run(lambda g, s, x, after: multidiffusion_latents(g, s, x, joint.windows), linear)["final_latent"]
    assert torch.equal(joined, plain)
    assert not torch.equal(plain, replay(case)["final_latent"])


def test_one_window_is_direct_sampling(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    canvas, noise = Canvas(16, 16), Noise(0, BOAT.id)
    one = mad.fn(backbone, BOAT, canvas, noise, steps=4, stride=2)
    off = (one - direct.fn(backbone, BOAT, canvas, noise, steps=4)).abs().max()
    assert off < sampled(backbone, 4, 7.5)
    assert (one - direct.fn(backbone, BOAT, canvas, noise, steps=5)).abs().max() > 1e-3


@pytest.mark.parametrize("canvas", [Canvas(48, 16), Canvas(16, 48), Canvas(32, 32)])
def test_wide_tall_and_square_canvases_are_made_of_windows_that_attend_together(tiny_sd: Path, canvas: Canvas) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    knobs = {"steps": 3, "stride": 2}
    made = mad.fn(backbone, BOAT, canvas, Noise(0, "a"), **knobs)
    assert made.shape == (3, canvas.height, canvas.width)
    plain = multidiffusion.fn(backbone, BOAT, canvas, Noise(0, "a"), **knobs)
    early = mad.fn(backbone, BOAT, canvas, Noise(0, "a"), threshold=1, **knobs)
    assert not torch.equal(made, plain)
    assert not torch.equal(made, early)


def test_a_call_holds_all_windows_whatever_the_batch_and_the_network_is_as_before(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd), batch=1)
    before = [type(p) for p in backbone.unet.attn_processors.values()]
    calls: list[int] = []
    hook = backbone.unet.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    made = mad.fn(backbone, BOAT, Canvas(32, 16), Noise(0, "a"), steps=2, stride=2)
    assert calls == [3, 3] * 2
    assert backbone.meter.cost().nfe == 2 * 3 * 2
    mad.fn(backbone, BOAT, Canvas(32, 16), Noise(0, "a"), steps=2, stride=2, guidance=1.0)
    assert calls == [3, 3] * 2 + [3] * 2
    hook.remove()
    assert [type(p) for p in backbone.unet.attn_processors.values()] == before
    wide = from_pretrained(model=str(tiny_sd), batch=7)
    assert torch.equal(made, mad.fn(wide, BOAT, Canvas(32, 16), Noise(0, "a"), steps=2, stride=2))


def test_the_network_is_as_before_after_an_error(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    before = dict(backbone.unet.attn_processors)
    seen = []

    def fails() -> None:
        with processors(backbone.unet, Joint([], (4, 4)).wrap):
            seen.extend(p is before[n] for n, p in backbone.unet.attn_processors.items())
            raise RuntimeError("while sampling")

    with pytest.raises(RuntimeError, match="while sampling"):
        fails()
    assert seen
    assert not any(seen)
    assert all(p is before[n] for n, p in backbone.unet.attn_processors.items())


def test_averaged_hidden_states_are_averaged_queries_keys_and_values() -> None:
    """As the projections are linear; written out here as the paper has it."""
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    torch.manual_seed(0)
    layer: Any = Attention(8, heads=2, dim_head=4).double().eval()
    windows, size = [Window(0, 0, 4, 4), Window(0, 2, 4, 4)], (4, 6)
    hidden = torch.randn(2, 16, 8, dtype=torch.float64)
    found = Joint(windows, size).wrap(AttnProcessor2_0())(layer, hidden)

    def on_canvas(x: torch.Tensor) -> torch.Tensor:  # (2, 16, c) -> (1, heads, 24, c / heads)
        canvas = merge(x.transpose(1, 2).unflatten(2, (4, 4)), windows, size)
        return canvas.flatten(2).unflatten(1, (2, 4)).transpose(2, 3)

    q, k, v = (on_canvas(project(hidden)) for project in (layer.to_q, layer.to_k, layer.to_v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)
    expected = layer.to_out[0](gather(out.unflatten(2, size), windows).flatten(2).transpose(1, 2))
    assert float((found - expected).detach().abs().max()) < 1e-12
    assert float((AttnProcessor2_0()(layer, hidden) - expected).detach().abs().max()) > 1e-3


def test_on_sdxl_windows_say_their_own_size_and_step_with_its_sampler(tmp_path: Path) -> None:
    backbone = sdxl(model=str(write_sdxl(tmp_path)))
    sizes: list[Any] = []
    hook = backbone.unet.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(kwargs["added_cond_kwargs"]["time_ids"].tolist()), with_kwargs=True
    )
    side = backbone.window * backbone.factor
    made = mad.fn(
        backbone, BOAT, Canvas(2 * side, side), Noise(0, "a"), steps=2, stride=backbone.window // 2, guidance=5.0
    )
    hook.remove()
    assert made.shape == (3, side, 2 * side)
    assert sizes == [[[side, side, 0, 0, side, side]] * 3] * 4
    assert type(backbone.scheduler(2)).__name__ == "EulerDiscreteScheduler"


def consistency(**changes: Any) -> tuple[StableDiffusion, dict[str, Any]]:
    """A tiny random latent consistency model, and its parts."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=4, layers_per_block=1, block_out_channels=(8, 16), cross_attention_dim=16, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), norm_num_groups=4,
        **{"time_cond_proj_dim": 12, **changes},
    )  # fmt: skip
    tokenizer, text = tiny_clip()
    config = {"_class_name": "LCMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    parts = {"unet": unet, "vae": tiny_vae(), "text_encoder": text, "tokenizer": tokenizer, "scheduler": config}
    return StableDiffusion("lcm", "-", parts, sampler="checkpoint"), parts


def test_one_window_of_a_consistency_model_is_diffusers_pipeline() -> None:
    """The pipeline embeds its scale less one; noise between steps comes from one generator on both sides."""
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    backbone, parts = consistency()
    pipeline = LatentConsistencyModelPipeline(
        **{**parts, "scheduler": LCMScheduler.from_config(parts["scheduler"])}, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    canvas = start(backbone, backbone.scheduler(4), Noise(0, "a"), (4, 4))
    expected = pipeline(
        BOAT.text, height=16, width=16, num_inference_steps=4, guidance_scale=8.5, latents=canvas,
        generator=torch.Generator().manual_seed(5), output_type="latent",
    ).images  # fmt: skip

    def run(scale: float) -> torch.Tensor:
        generator, joint = torch.Generator().manual_seed(5), Joint([Window(0, 0, 4, 4)], (4, 4))
        with (
            torch.no_grad(),
            processors(backbone.unet, joint.wrap),
            embedded_guidance(backbone.unet, scale, backbone.device),
        ):
            return mad_lcm_latents(
                all_windows(backbone, backbone.condition(BOAT.text), 1.0, joint),
                backbone.scheduler(4),
                canvas,
                joint,
                2,
                lambda i: torch.randn(canvas.shape, generator=generator),
            )

    assert float((run(7.5) - expected).abs().max()) < sampled(backbone, 4) * float(expected.abs().max())
    assert float((run(6.5) - expected).abs().max()) > 1e-2


def test_a_consistency_model_takes_a_canvas_in_four_steps_without_touching_the_global_generator() -> None:
    backbone, _ = consistency()
    torch.manual_seed(3)
    expected = torch.randn(3)
    torch.manual_seed(3)
    made, again = (
        mad.fn(backbone, BOAT, Canvas(32, 16), Noise(0, "a"), **mad.resolve({"stride": 2}, "lcm")) for _ in range(2)
    )
    assert torch.equal(torch.randn(3), expected)
    assert made.shape == (3, 16, 32)
    assert torch.equal(made, again)
    assert backbone.meter.nfe == 2 * 4 * 3
    other = mad.fn(backbone, BOAT, Canvas(32, 16), Noise(0, "a"), steps=4, threshold=0, stride=2)
    assert not torch.equal(made, other)
    assert not backbone.unet.time_embedding._forward_pre_hooks


def test_networks_and_schedulers_that_do_not_go_together_are_refused(tiny_sd: Path) -> None:
    for backbone in (consistency(time_cond_proj_dim=None)[0], StableDiffusion("a", "-", consistency()[1])):
        with pytest.raises(UsageError, match="do not go together"):
            mad.fn(backbone, BOAT, Canvas(32, 16), Noise(0, "a"), stride=2)
    with pytest.raises(UsageError, match="no negative prompt"):
        mad.fn(consistency()[0], Prompt("b", "a boat", "rain"), Canvas(32, 16), Noise(0, "a"), steps=4, stride=2)
    odd = from_pretrained(model=str(tiny_sd))
    next(m for m in odd.unet.modules() if hasattr(m, "set_processor")).residual_connection = True
    with pytest.raises(UsageError, match="other attention"):
        mad.fn(odd, BOAT, Canvas(32, 16), Noise(0, "a"), stride=2)


def test_full_size_panoramas_fit_a_card_of_24_gb_and_take_the_evaluations_of_the_cost_model() -> None:
    """SD 2.0 in fp16 on shapes: 37 windows at 512x5120, and 4 steps of 21 windows at 512x3072, 2 of them merged."""
    for width, steps, nfe in ((5120, 1, 2 * 37), (3072, 4, 2 * 84)):
        backbone = sd20.skeleton(precision="fp16")
        with counting() as tally:
            for module in (m for m in backbone.parts.values() if hasattr(m, "parameters")):
                for parameter in module.parameters():
                    tally.track(parameter)
            backbone.predict = remembered(backbone.predict, tally, backbone.meter)
            mad.fn(backbone, BOAT, Canvas(width, 512), Noise(0, "a"), steps=steps, threshold=2)
        assert backbone.meter.nfe == nfe
        assert tally.peak < 13e9


@pytest.mark.parametrize(
    ("canvas", "knobs", "message"),
    [
        (Canvas(64, 16, loop=True), {}, "mad defines no loop"),
        (Canvas(64, 8), {}, "height is 8 px, a window is 16 px"),
        (Canvas(60, 16), {"stride": 2}, "nearest that fit: 56 or 64 px"),
        (Canvas(64, 16), {"stride": 1}, "stride must be a multiple of 2 cells .8 px., got 1"),
        (Canvas(60, 16), {"stride": 2, "remainder": "clamp"}, "width must be a multiple of 2 cells"),
        (Canvas(64, 16), {"stride": 2, "remainder": "zero"}, "would attend as zeros"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_network_is_asked(
    canvas: Canvas, knobs: dict[str, Any], message: str
) -> None:
    config = SimpleNamespace(block_out_channels=(8, 8))
    unet = SimpleNamespace(modules=lambda: [], set_attn_processor=None, config=config)
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4, unet=unet)
    with pytest.raises(UsageError, match=message):
        mad.fn(idle, BOAT, canvas, Noise(0, "a"), **knobs)


def test_networks_without_a_unet_are_refused() -> None:
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4)
    with pytest.raises(UsageError, match="attention layers of a U-Net"):
        mad.fn(idle, BOAT, Canvas(64, 16), Noise(0, "a"))


def test_presets_are_the_command_line_the_function_and_the_other_networks() -> None:
    cli = mad.resolve({}, "cli")
    assert cli == mad.resolve({})
    assert [cli[k] for k in ("steps", "guidance", "stride", "threshold")] == [50, 7.5, None, 25]
    assert mad.resolve({}, "function") == {**cli, "threshold": 50}
    assert mad.resolve({}, "sdxl") == {**cli, "guidance": 5.0, "stride": 16}
    assert mad.resolve({}, "lcm") == {**cli, "steps": 4, "threshold": 2}
