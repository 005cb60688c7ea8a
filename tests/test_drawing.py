"""Schedulers that draw in their steps draw from the picture's noise, or are refused before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import UsageError
from bench.noise import Noise
from bench.registry import find
from bench.types import Canvas, Prompt
from methods.backbones import drawing
from methods.backbones.drawing import Drawing
from methods.backbones.schedules import make_scheduler
from methods.sampling import keyed, undrawn

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
DRAWERS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "KDPM2AncestralDiscreteScheduler": {},
    "LCMScheduler": {},
    "TCDScheduler": {},
    "SASolverScheduler": {},
    "DPMSolverMultistepScheduler": {"algorithm_type": "sde-dpmsolver++"},
    "FlowMatchEulerDiscreteScheduler": {"stochastic_sampling": True},
}
STEADY = ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
          "FlowMatchEulerDiscreteScheduler", "HeunDiscreteScheduler")  # fmt: skip
BOAT = Prompt("boat", "a boat on a calm sea")


def scheduler(name: str, **config: Any) -> Any:
    return make_scheduler({"_class_name": name, **BETAS, **config}, 4)


def walk(made: Any, shape: tuple[int, ...] = (1, 2, 3, 3)) -> torch.Tensor:
    """All steps of a network that answers a tenth of its input."""
    x = torch.ones(shape)
    for t in made.timesteps:
        x = made.step(0.1 * made.scale_model_input(x, t), t, x).prev_sample
    return x


@pytest.mark.parametrize("name", sorted(DRAWERS))
def test_a_scheduler_that_draws_takes_its_numbers_from_the_prompts_streams(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = walk(keyed(scheduler(name, **DRAWERS[name]), Noise(0, "boat")))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(walk(keyed(scheduler(name, **DRAWERS[name]), Noise(0, "boat"))), first)
    for other in (Noise(1, "boat"), Noise(0, "reef")):
        assert not torch.equal(walk(keyed(scheduler(name, **DRAWERS[name]), other)), first)


@pytest.mark.parametrize("name", sorted(DRAWERS))
def test_without_noise_it_is_refused_and_named(name: str) -> None:
    made = scheduler(name, **DRAWERS[name])
    with pytest.raises(UsageError, match=rf"mine averages windows.* {name} draws .*sampler=ddim"):
        undrawn(made, "mine")
    with pytest.raises(UsageError, match=f"{name} draws"):
        walk(made)


@pytest.mark.parametrize("name", STEADY)
def test_schedulers_that_do_not_draw_step_as_diffusers_own(name: str) -> None:
    import diffusers

    made = scheduler(name)
    undrawn(made, "mine")
    plain: Any = getattr(diffusers, name).from_config(made.config)
    plain.set_timesteps(4)
    if not hasattr(plain, "scale_model_input"):
        plain.scale_model_input = lambda x, t: x
    assert torch.equal(walk(made), walk(plain))
    assert type(made).__name__ == name
    assert isinstance(made, getattr(diffusers, name))


def test_ddpm_steps_by_its_equation_with_the_numbers_of_the_stream() -> None:
    made = keyed(scheduler("DDPMScheduler", clip_sample=False), Noise(3, "boat"))
    t, x, out = int(made.timesteps[0]), torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 0.2)
    a, b = (float(made.alphas_cumprod[i]) for i in (t, t - 250))
    clean = (x - (1 - a) ** 0.5 * out) / a**0.5
    step = a / b
    mean = b**0.5 * (1 - step) / (1 - a) * clean + step**0.5 * (1 - b) / (1 - a) * x
    drawn = Noise(3, "boat").normal("step-0", (1, 1, 2, 2))
    expected = mean + ((1 - b) / (1 - a) * (1 - step)) ** 0.5 * drawn
    stepped = made.step(out, made.timesteps[0], x).prev_sample
    assert torch.allclose(stepped, expected, rtol=1e-5, atol=1e-6)  # float32, terms of size 3


def test_a_generator_of_the_callers_own_is_used_as_it_is() -> None:
    def draw(seed: int) -> torch.Tensor:
        made, x = scheduler("DDPMScheduler"), torch.ones(1, 1, 2, 2)
        stepped: torch.Tensor = made.step(x, made.timesteps[0], x, generator=torch.Generator().manual_seed(seed))[0]
        return stepped

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_numbers_of_other_kinds_are_refused_even_where_there_is_noise() -> None:
    noise = Noise(0, "boat")
    with Drawing("Odd", lambda shape: noise.normal("x", shape)):
        for asked in (
            torch.randn(2, 3),
            torch.randn((2, 3)),
            torch.randn(size=(2, 3)),
            torch.randn_like(torch.ones(2, 3)),
        ):
            assert torch.equal(asked, noise.normal("x", (2, 3)))
        assert torch.randn(2, dtype=torch.float64).dtype == torch.float64
        for draw in (lambda: torch.rand(2), lambda: torch.randint(9, (2,)), lambda: torch.ones(2).uniform_()):
            with pytest.raises(UsageError, match="Odd draws"):
                draw()


def checkpoint(folder: Path, source: Path, name: str) -> Any:
    """A pipeline folder whose scheduler config names another class; opened as such."""
    shutil.copytree(source, folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "_class_name": name}))
    return find("backbones", "diffusers")(model=str(folder), sampler="checkpoint")


@pytest.mark.parametrize("name", ["DDPMScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler"])
def test_two_runs_of_one_recipe_on_a_drawing_checkpoint_give_one_picture(
    name: str, tmp_path: Path, tiny_sd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pictures() -> list[torch.Tensor]:
        backbone = checkpoint(tmp_path / f"{len(list(tmp_path.iterdir()))}", tiny_sd, name)
        canvas = Canvas(32, 16)
        return [find("methods", "direct").fn(backbone, BOAT, canvas, Noise(0, "boat"), steps=3) for _ in range(2)]

    first, second = pictures()
    assert torch.equal(first, second)
    monkeypatch.setattr(drawing.Drawing, "__torch_function__", lambda self, func, types, args=(), kwargs=None: func(
        *args, **(kwargs or {})
    ))  # fmt: skip
    first, second = pictures()
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["multidiffusion", "gvcf", "mad"])
def test_methods_that_average_windows_refuse_a_drawing_checkpoint_before_any_work(
    name: str, tmp_path: Path, tiny_sd: Path
) -> None:
    backbone = checkpoint(tmp_path / "ddpm", tiny_sd, "DDPMScheduler")
    fusion = {"fusion": "gf"} if name == "gvcf" else {}
    with pytest.raises(UsageError, match=f"{name} averages windows.*DDPMScheduler draws.*sampler=ddim"):
        find("methods", name).fn(backbone, BOAT, Canvas(32, 16), Noise(0, "boat"), steps=2, stride=2, **fusion)
    assert backbone.meter.cost().seconds == {}
    assert backbone.meter.nfe == 0
