"""DyPE against the tables, the schedule and the loop of its original; what it is when it changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.errors import UsageError
from bench.noise import Noise
from bench.pipeline.probe import Probe
from bench.registry import find
from bench.types import Canvas, Prompt
from methods.backbones.flux import Flux, flux_dev, flux_krea
from methods.direct import direct
from methods.dype import dype, dype_latents, dype_rule
from methods.shared.positions import Axis, axes_of, placed, plain, rotary
from tests.support.golden_cases import GOLDENS, load_network
from tests.support.tiny_pipelines import write_flux

BOAT = Prompt("boat", "a boat under one moon")
WIDE = Canvas(640, 16)  # 80 tokens of 8 px where 64 are native
ENTRIES = json.loads((GOLDENS / "manifest.json").read_text())["cases"]


def arrays(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDENS / ENTRIES[name]["file"]) as stored:
        return {k: torch.from_numpy(stored[k]) for k in stored.files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Any:
    return flux_dev(model=str(folder))


@pytest.fixture(scope="module")
def sized(folder: Path) -> Callable[[int], Any]:
    """A FLUX of so many tokens a native side, with axes of enough frequencies to tell rules apart."""
    from diffusers import FluxTransformer2DModel

    parts = flux_dev(model=str(folder)).parts
    torch.manual_seed(0)
    axes = {"attention_head_dim": 64, "axes_dims_rope": (8, 28, 28)}
    transformer = FluxTransformer2DModel.from_config({**parts["transformer"].config, **axes})
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    parts = {**parts, "transformer": transformer, "scheduler": scheduler}
    return lambda side: Flux("sized", "-", parts, window=2 * side)


def make(backbone: Any, canvas: Canvas = WIDE, **knobs: Any) -> torch.Tensor:
    return dype.fn(backbone, BOAT, canvas, Noise(0, "boat"), **{"steps": 3, **knobs})


# -- the original's numbers


def tables_off(**changes: Any) -> float:
    """Largest difference of any of the original's tables, from all or those whose rule is changed."""
    entry, stored = ENTRIES["dype_rope_a"], arrays("dype_rope_a")
    dims, native = entry["settings"]["axes_dim"], entry["settings"]["native_patches"]
    off = 0.0
    for table in entry["tables"]:
        lengths = (1, table["grid_rows"], table["grid_cols"])
        knobs = {"rule": table["method"].replace("base", "none"), "dynamic": table["dype"], **changes}
        t = knobs.pop("t", table["t"])
        rules = [dype_rule(Axis(d, 10_000, m), n, t, **knobs) for d, m, n in zip(dims, (1, native, native), lengths)]
        name = table["name"]
        found = rotary(stored[f"ids_{name[1]}"], dims, rules)
        for side, values in zip(("cos", "sin"), found):
            off = max(off, float((values - stored[f"{side}_{name}"]).abs().max()))
    return off


def test_every_table_is_the_originals() -> None:
    assert len(ENTRIES["dype_rope_a"]["tables"]) == 51
    assert tables_off() < ENTRIES["dype_rope_a"]["suggested_tolerance"]


def test_the_earlier_kappa_is_off_by_as_much_as_stated() -> None:
    (stated,) = ENTRIES["dype_rope_a"]["negative_controls_max_abs"].values()
    assert tables_off(kappa="power") == pytest.approx(stated, rel=0.01)


@pytest.mark.parametrize("changes", [{"dynamic": False}, {"rule": "ntk"}, {"rule": "none"}, {"t": 0.6}])
def test_another_rule_is_not_lost_in_the_tolerance(changes: dict[str, Any]) -> None:
    assert tables_off(**changes) > 0.1


def test_the_earlier_kappa_has_the_thresholds_it_is_described_by() -> None:
    """At t = 1/2 they are the square roots: (1.118, 0.866) and (4, 1.414)."""
    exponents = torch.arange(0, 56, 2, dtype=torch.float64) / 56
    axis = Axis(56, 10_000, 64)
    early, base = dype_rule(axis, 256, 0.5, kappa="power")(exponents)[0], plain()(exponents)[0]
    kept = int((early == base).sum())
    assert kept == 3  # floor(28 ln(64 / (4 * 2 pi)) / ln 10000) = 2, the pair at the edge included
    assert int((dype_rule(axis, 256, 0.5)(exponents)[0] == base).sum()) == 3  # 16 / 4 is also 4
    now, then = (dype_rule(axis, 256, 0.5, kappa=k)(exponents)[0] for k in ("product", "power"))
    assert (now > then)[3:9].all()  # its other threshold is 2 / 4, not the root of 2: positions are let go sooner


def test_axes_that_are_not_too_long_keep_their_table() -> None:
    exponents = torch.arange(0, 56, 2, dtype=torch.float64) / 56
    for length in (1, 32, 64):
        for rule in ("yarn", "ntk"):
            found, gain = dype_rule(Axis(56, 10_000, 64), length, 0.5, rule)(exponents)
            assert (torch.equal(found, plain()(exponents)[0]), gain) == (True, 1.0)
    assert dype_rule(Axis(56, 10_000, 64), 65, 0.5)(exponents)[1] > 1.0


def test_the_schedule_is_the_originals_at_every_size(folder: Path) -> None:
    """FLUX at its native square, for all canvases; the pipeline's own shift is another one."""
    stored, tolerance = arrays("dype_schedule"), ENTRIES["dype_schedule"]["suggested_tolerance"]
    krea = flux_krea(model=str(folder))
    for entry in ENTRIES["dype_schedule"]["entries"]:
        tokens, steps = entry["tokens"], entry["steps"]
        side = int(tokens**0.5) * 2 if tokens != 8192 else 128
        size = (side, tokens * 4 // side)
        name = f"N{tokens}_steps{steps}"
        ours, plain_ = (krea.scheduler(steps, s).sigmas.double() for s in (None, size))
        assert float((ours - stored[f"sigmas_dype_{name}"]).abs().max()) < tolerance
        assert float((plain_ - stored[f"sigmas_plain_{name}"]).abs().max()) < tolerance
        apart = float((plain_ - stored[f"sigmas_dype_{name}"]).abs().max())
        assert apart == pytest.approx(entry["max_abs_difference"], abs=tolerance)


class Loop:
    """The original's loop on a small random FLUX, in float64."""

    def __init__(self, folder: Path) -> None:
        self.entry, self.arrays = ENTRIES["dype_flux_loop"], arrays("dype_flux_loop")
        parts = {**flux_dev(model=str(folder)).parts, "transformer": load_network(self.entry["transformer"])}
        parts["scheduler"] = {**self.entry["scheduler"]["config"], "_class_name": "FlowMatchEulerDiscreteScheduler"}
        self.backbone = Flux("golden", "-", parts, precision="fp64")
        settings = self.entry["settings"]
        px, steps = settings["token_px"], settings["steps"]
        self.grid = settings["height_px"] // px, settings["width_px"] // px
        self.steps, self.guidance = steps, torch.full((1,), settings["guidance_embedding"], dtype=torch.float64)

    def packed(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)

    def run(self, size: tuple[int, int] | None = None, **knobs: Any) -> dict[str, torch.Tensor]:
        x = torch.nn.functional.pixel_shuffle(self.arrays["canvas_packed"].transpose(1, 2).unflatten(2, self.grid), 2)
        scheduler = self.backbone.scheduler(self.steps, size)
        axes, seen = axes_of(self.backbone, "dype"), []
        added = {"pooled_projections": self.arrays["pooled_prompt_embeds"], "guidance": self.guidance}

        def guided(z: torch.Tensor, t: Any) -> torch.Tensor:
            seen.append(z)
            return self.backbone.predict(z, t, self.arrays["prompt_embeds"], added)

        def rules(t: float) -> list[Any]:
            return [dype_rule(axis, n, t, **knobs) for axis, n in zip(axes, (1, *self.grid))]

        with torch.no_grad(), placed(self.backbone, axes) as table:
            final = dype_latents(guided, scheduler, x, table, rules)
        return {"latent_after_step_1": self.packed(seen[1]), "final_latent": self.packed(final)}

    def off(self, name: str, **changes: Any) -> float:
        return float((self.run(**changes)[name] - self.arrays[name]).abs().max())


@pytest.fixture(scope="module")
def loop(folder: Path) -> Loop:
    return Loop(folder)


@pytest.mark.parametrize("name", ["latent_after_step_1", "final_latent"])
def test_the_loop_is_the_originals(loop: Loop, name: str) -> None:
    assert loop.off(name) < loop.entry["suggested_tolerance"]


@pytest.mark.parametrize(
    ("mistake", "changes"),
    [
        ("plain rotary table", {"rule": "none"}),
        ("static thresholds", {"dynamic": False}),
        ("unclamped FLUX mu", {"size": (8, 192)}),
    ],
)
def test_a_mistake_in_the_loop_is_off_by_as_much_as_stated(loop: Loop, mistake: str, changes: dict[str, Any]) -> None:
    stated = loop.entry["negative_controls_max_abs"][mistake]
    assert loop.off("final_latent", **changes) == pytest.approx(stated, rel=1e-3)


# -- identities


@pytest.mark.parametrize("rule", ["yarn", "ntk", "none"])
def test_on_the_native_square_dype_is_direct_to_the_last_bit(sized: Callable[[int], Any], rule: str) -> None:
    small = sized(4)  # as the miniature
    for canvas in (Canvas(32, 32), Canvas(32, 16)):
        plain_ = direct.fn(small, BOAT, canvas, Noise(0, "boat"), steps=3, guidance=4.5)
        shift = "native" if canvas.height == 32 else "canvas"
        assert torch.equal(make(small, canvas, rule=rule, shift=shift), plain_)
    longer = make(small, Canvas(40, 32), rule=rule, shift="canvas")
    plain_ = direct.fn(small, BOAT, Canvas(40, 32), Noise(0, "boat"), steps=3, guidance=4.5)
    assert torch.equal(longer, plain_) == (rule == "none")


def test_without_a_rule_and_with_the_canvas_shift_dype_is_direct(backbone: Any, folder: Path) -> None:
    knobs: dict[str, Any] = {"steps": 3, "guidance": 4.5}
    plain_ = direct.fn(backbone, BOAT, WIDE, Noise(0, "boat"), **knobs)
    assert torch.equal(make(backbone, rule="none", shift="canvas"), plain_)
    assert not torch.equal(make(backbone, rule="yarn", shift="canvas"), plain_)
    fixed = direct.fn(flux_dev(model=str(folder), mu=1.15), BOAT, WIDE, Noise(0, "boat"), **knobs)
    assert torch.equal(make(backbone, rule="none"), fixed)  # the original's FLUX row
    assert not torch.equal(fixed, plain_)


def test_every_choice_makes_another_picture(sized: Callable[[int], Any]) -> None:
    network, long = sized(16), Canvas(320, 16)  # 40 tokens where 16 are native
    choices = [dype.presets[p] for p in ("dy-yarn", "dy-yarn-2025", "yarn", "dy-ntk", "ntk", "flux")]
    made = [make(network, long, **c) for c in choices]
    for i, picture in enumerate(made):
        assert picture.shape == (3, 16, 320)
        assert not any(torch.equal(picture, other) for other in made[:i]), choices[i]
    assert torch.equal(make(network, long), made[0])  # one route: what differs is the rule


def test_it_costs_one_evaluation_a_step_and_leaves_no_trace(backbone: Any) -> None:
    backbone.meter.reset()
    probe = Probe(backbone)
    make(backbone)
    assert (backbone.meter.nfe, probe.changes()) == (3, [])


def test_a_tall_canvas_is_the_same_rule_on_the_other_axis(backbone: Any) -> None:
    assert not torch.equal(make(backbone, Canvas(16, 640)), make(backbone, Canvas(16, 640), rule="none"))


# -- what is refused, and full size


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"rule": "yarnn"}, "dype: unknown rule 'yarnn'; did you mean 'yarn'"),
        ({"kappa": "t2"}, "dype: unknown kappa 't2'"),
        ({"shift": "fixed"}, "dype: unknown shift 'fixed'"),
    ],
)
def test_unknown_choices_are_refused(backbone: Any, knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make(backbone, **knobs)


def test_loops_and_sides_that_fill_no_tokens_are_refused(backbone: Any) -> None:
    with pytest.raises(UsageError, match="dype cannot make a loop"):
        make(backbone, Canvas(64, 16, loop=True))
    with pytest.raises(UsageError, match="width must be a multiple of 8, got 642; nearest: 640 or 648"):
        make(backbone, Canvas(642, 16))


def test_the_registered_defaults_are_the_originals() -> None:
    found = find("methods", "dype")
    assert found.resolve({}) == {
        "steps": 28, "guidance": 4.5, "rule": "yarn", "dynamic": True, "kappa": "product", "shift": "native",
    }  # fmt: skip


def test_the_full_size_passes_on_the_meta_device() -> None:
    krea = flux_krea.skeleton(precision="bf16")
    picture = make(krea, Canvas(4096, 4096), steps=1)
    assert (picture.device.type, picture.shape) == ("meta", (3, 4096, 4096))
