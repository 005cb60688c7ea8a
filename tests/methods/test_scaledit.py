"""Scale-DiT on a tiny random FLUX: identities with plain FLUX and direct sampling, its steps, what it refuses."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import PrerequisiteError, UsageError
from bench.noise import Noise
from bench.pipeline.generate import generate
from bench.pipeline.meta import counting
from bench.pipeline.plan import make_plan
from bench.store import Store
from bench.types import Canvas, Prompt
from methods.backbones.flux import flux_dev
from methods.backbones.sd3 import sd35_medium
from methods.backbones.sdxl import sdxl
from methods.direct import direct
from methods.scaledit import coarse, scale_dit, scaledit_latents, schedule, sharpened
from methods.shared import lora
from methods.shared.bridged import Bridged, packed, turned
from methods.shared.flux_streams import ADAPTED, Inputs, predict
from methods.shared.positions import axes_of
from methods.shared.sparse_attention import choose
from methods.shared.token_layout import BLOCK, Layout, Tokens, allowed, blocks, tokens
from tests.support.close import sampled
from tests.support.small import small
from tests.support.tiny_pipelines import write_flux, write_sdxl

BOAT = Prompt("boat", "a boat under one moon")
CANVAS = Canvas(64, 32)  # 8 x 4 tokens of 8 px
KNOBS: dict[str, Any] = {"steps": 4, "kept": 3, "window": 4, "ratio": 2, "guidance": 3.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Any:
    return flux_dev(model=str(folder))


@pytest.fixture(scope="module")
def adapter(backbone: Any) -> dict[str, lora.Lora]:
    """Random pairs that change much."""
    generator = torch.Generator().manual_seed(0)
    made = lora.fresh(lora.layers(backbone.transformer, ADAPTED), 4, lambda s: torch.randn(s, generator=generator))
    return {n: p._replace(b=torch.randn(p.b.shape, generator=generator) / 4) for n, p in made.items()}


@pytest.fixture(scope="module")
def bridge(adapter: dict[str, lora.Lora], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bridge") / "some.safetensors"
    lora.save(adapter, path)
    return str(path)


def ours(backbone: Any, canvas: Canvas = CANVAS, **knobs: Any) -> torch.Tensor:
    backbone.meter.reset()
    given = scale_dit.resolve({**KNOBS, **knobs})
    return scale_dit.fn(backbone, BOAT, canvas, Noise(0, BOAT.id), **given)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


# -- identities with the plain network


def told(backbone: Any, low: torch.Tensor | None = None) -> Inputs:
    """One call's inputs on 4 x 4 tokens."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 16, 8, 8, generator=generator)
    prompt = backbone.condition(BOAT.text)
    text, pooled = prompt.embeds[1:], prompt.added["pooled_projections"][1:]
    beside = None if low is None else packed(low, 2)
    return Inputs(packed(x, 2), beside, text, pooled, torch.tensor([0.7]), torch.tensor([3.5]))


def plain(backbone: Any, network: Any, inputs: Inputs) -> torch.Tensor:
    """diffusers' own forward."""
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0))
    out: torch.Tensor = network(
        hidden_states=inputs.high, timestep=inputs.time, guidance=inputs.guidance, pooled_projections=inputs.pooled,
        encoder_hidden_states=inputs.text, txt_ids=torch.zeros(inputs.text.shape[1], 3), img_ids=ids,
        return_dict=False,
    )[0]  # fmt: skip
    return out


ONE = Layout((4, 4), 512, 0, 4, 3, None, "raster")  # one window, which every token sees all of: no low tokens


def test_one_window_is_plain_flux(backbone: Any, adapter: dict[str, lora.Lora]) -> None:
    inputs, close = told(backbone), sampled(backbone, 1)
    expected = plain(backbone, backbone.transformer, inputs)
    assert choose(ONE, "cpu").name == "gather"
    for layout, equal in ((ONE, True), (replace(ONE, radius=1), False)):
        table = turned(layout, axes_of(backbone, "test"), 10.0)
        found = predict(backbone.transformer, inputs, adapter, table, choose(layout, "cpu").attend)
        assert (apart(found, expected) < close) is equal


def hidden(layout: Layout, seen: bool) -> Any:
    """Dense attention over a layout whose high tokens see low ones, or do not."""
    every = tokens(layout)
    table = allowed(Tokens(*(t[:, None] for t in every)), Tokens(*(t[None] for t in every)), layout)
    last = layout.text + layout.high
    table[:last, last:] &= seen
    return lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=table)


def test_low_tokens_reach_the_picture_through_attention_alone_and_pairs_by_their_scope(
    backbone: Any, adapter: dict[str, lora.Lora]
) -> None:
    """One window of each grid: where low tokens are hidden, the picture is plain FLUX with queries, keys and values
    adapted (image in double blocks, image and text in single ones) and every other layer as it was."""
    layout = Layout((4, 4), 512, 2, 4, 3, 1, "raster")
    low = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(2))
    inputs, close = told(backbone, low), sampled(backbone, 1)
    table = turned(layout, axes_of(backbone, "test"), 1.0)
    scoped, everywhere = copy.deepcopy(backbone.transformer), copy.deepcopy(backbone.transformer)
    for name, pair in adapter.items():
        everywhere.get_submodule(name).weight += pair.scale * pair.b @ pair.a
        if name.endswith(("to_q", "to_k", "to_v")):
            scoped.get_submodule(name).weight += pair.scale * pair.b @ pair.a
    expected = plain(backbone, scoped, inputs)
    close *= max(1.0, float(expected.abs().max()))
    found = predict(backbone.transformer, inputs, adapter, table, hidden(layout, False))
    assert apart(found, expected) < close
    for wrong in (backbone.transformer, everywhere):
        assert apart(found, plain(backbone, wrong, inputs)) > 0.05
    assert apart(found, predict(backbone.transformer, inputs, adapter, table, hidden(layout, True))) > 100 * close
    bare = predict(backbone.transformer, inputs, {}, table, hidden(layout, False))
    assert apart(bare, plain(backbone, backbone.transformer, inputs)) < close


def test_low_tokens_are_modulated_at_time_zero_whatever_the_step(
    backbone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    embed = backbone.transformer.time_text_embed
    watch = embed.register_forward_pre_hook(lambda _, args: seen.append([float(a) for a in args[:2]]))
    layout = Layout((4, 4), 512, 2, 4, 2, 1)
    table = turned(layout, axes_of(backbone, "test"), 10.0)
    predict(backbone.transformer, told(backbone, torch.zeros(1, 16, 4, 4)), {}, table, choose(layout, "cpu").attend)
    watch.remove()
    assert seen == [[pytest.approx(700.0), 3500.0], [0.0, 3500.0]]


def test_without_bridge_and_dense_from_noise_it_is_direct_sampling(backbone: Any, bridge: str) -> None:
    expected = direct.fn(backbone, BOAT, CANVAS, Noise(0, BOAT.id), steps=4, guidance=3.5)
    bare = {"bridge": "none", "start": "noise", "attention": "dense", "shift": None}
    close = sampled(backbone, 4)
    assert apart(ours(backbone, **bare), expected) < close
    assert backbone.meter.flags == ["attention=sdpa"]
    for change in ({"bridge": bridge}, {"start": "picture"}, {"attention": "local"}, {"shift": 3.0}):
        assert apart(ours(backbone, **{**bare, **change}), expected) > 2 * close, change


# -- the method


def test_orders_change_nothing_and_other_knobs_do(backbone: Any, bridge: str) -> None:
    reference, close = ours(backbone, bridge=bridge), sampled(backbone, 7)
    assert (reference.shape, backbone.meter.nfe) == ((3, 32, 64), 4 + 3)
    assert backbone.meter.flags == ["attention=gather"]
    for order in ("hilbert-window", "hilbert", "raster"):
        assert apart(ours(backbone, bridge=bridge, order=order), reference) < close
    changes: list[dict[str, Any]] = [
        {"bridge": "none"}, {"start": "noise"}, {"flow": "cosine"}, {"attention": "dense"}, {"window": 2}, {"ratio": 4},
        {"ntk": 1.0}, {"low_guidance": 1.0}, {"guidance": 6.0}, {"kept": 2}, {"shift": 1.0},
    ]  # fmt: skip
    for change in changes:
        assert apart(ours(backbone, **{"bridge": bridge, **change}), reference) > 2 * close, change
    wide = Canvas(128, 32)  # four windows in a row: the last one's neighbours by number are the same
    assert ours(backbone, wide, bridge=bridge, neighbours="raster").shape == (3, 32, 128)


def test_eight_to_one_is_a_canvas_like_others_and_repeatable(backbone: Any, bridge: str) -> None:
    wide = Canvas(256, 32)
    assert torch.equal(ours(backbone, wide, bridge=bridge), ours(backbone, wide, bridge=bridge))


def test_the_raster_rule_makes_another_picture_where_there_are_rows_of_windows(backbone: Any, bridge: str) -> None:
    tall = Canvas(96, 64)
    pictures = [ours(backbone, tall, bridge=bridge, neighbours=n) for n in ("plane", "raster")]
    assert apart(*pictures) > 2 * sampled(backbone, 7)
    assert scale_dit.presets["legacy"] == {"neighbours": "raster"}


def test_the_schedule_is_the_released_one(backbone: Any) -> None:
    made = schedule(backbone, 28, (512, 512), 3.0)
    assert float(made.sigmas[10]) == pytest.approx(0.844, abs=5e-4)  # the first of the last 18
    assert float(schedule(backbone, 28, (512, 512), None).sigmas[10]) > 0.999


def test_a_velocity_that_leads_to_the_picture_is_not_bent_and_another_is(backbone: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    goal, noise = (torch.randn(1, 2, 4, 4, generator=generator) for _ in range(2))
    ends = []
    for flow in (None, goal):
        for offset in (0.0, 1.0):
            scheduler = schedule(backbone, 5, (4, 4), 3.0)
            level = float(scheduler.sigmas[2])
            x = (1 - level) * goal + level * noise
            ends.append(scaledit_latents(lambda x, t, o=offset: noise - goal + o, scheduler, x, 2, flow))
    assert apart(ends[0], goal) < 1e-5
    assert apart(ends[2], goal) < 1e-5
    assert apart(ends[1], goal) == pytest.approx(level, abs=1e-5)
    steps = [float(s) for s in schedule(backbone, 5, (4, 4), 3.0).sigmas[2:]]
    off, at = 0.0, steps[0]  # by hand: x = goal + at (noise - goal) + off, and off is the same everywhere
    for i, after in enumerate(steps[1:]):
        weight = 0.5 * (1 + math.cos(math.pi * i / 3))
        off += (after - at) * (1.0 + weight * (off / at - 1.0))
        at = after
    assert apart(ends[3], goal + off) < 1e-5


def test_low_frequencies_are_means_of_four_cells_and_sharpening_keeps_what_is_even() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert coarse(x)[0, 0, 0].tolist() == [2.5, 2.5, 4.5, 4.5]
    assert torch.equal(coarse(coarse(x)), coarse(x))
    even = torch.full((1, 3, 4, 4), 0.25)
    assert apart(sharpened(even, 1.0), even) < 1e-6
    edge = torch.cat([even, 2 * even], dim=-1)
    sharp = sharpened(edge, 1.0)[0, 0, 0]
    assert sharp[3] < 0.25 < 0.5 < sharp[4]


def test_the_bridge_learns_by_gradients_the_same_with_blocks_computed_anew(
    backbone: Any, adapter: dict[str, lora.Lora]
) -> None:
    layout = Layout((4, 4), 512, 2, 2, 1, None, low_seen=True, low_text=True)  # what training sees
    inputs = told(backbone, torch.ones(1, 16, 4, 4))
    table, attend = turned(layout, axes_of(backbone, "test"), 10.0), choose(layout, "cpu").attend
    grads = []
    for anew in (False, True):
        pairs = {
            n: p._replace(a=p.a.clone().requires_grad_(), b=p.b.clone().requires_grad_()) for n, p in adapter.items()
        }
        loss = predict(backbone.transformer, inputs, pairs, table, attend, checkpoint=anew).square().mean()
        grads.append(torch.autograd.grad(loss, [t for p in pairs.values() for t in (p.a, p.b)], allow_unused=True))
    learns = {
        name for name, g in zip([n for n in adapter for _ in "ab"], grads[0]) if g is not None and g.abs().max() > 0
    }
    # What a low token becomes after the last block nobody sees.
    assert set(adapter) - learns == {f"single_transformer_blocks.0.{n}" for n in ("proj_mlp", "proj_out")}
    assert all(a is b is None or apart(a, b) < 1e-6 * float(a.abs().max() + 1) for a, b in zip(*grads))


# -- what is refused, and when

SUITE = """
name = "bridged"
version = "1"
tier = "full"
title = "Bridged"
backbone = "flux-dev"
seeds = [0]
[backbone_options]
model = "{folder}"
[[parts]]
name = "wide"
width = {width}
height = 32
prompts = "prompts.jsonl"
[[methods]]
ref = "scale-dit"
label = "Scale-DiT"
[methods.set]
steps = 2
kept = 1
window = 4
ratio = 2
{more}
"""


def suite(tmp_path: Path, folder: Path, more: str = "", width: int = 64) -> Any:
    return small(tmp_path, SUITE.format(folder=folder, width=width, more=more))


def test_a_plan_names_the_bridge_by_its_content_and_a_file_that_changes_after_it_makes_no_picture(
    tmp_path: Path, folder: Path, bridge: str
) -> None:
    here, there = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path in (here, there):
        path.write_bytes(Path(bridge).read_bytes())
    store = Store(tmp_path / "store")
    plans = [make_plan(suite(tmp_path / p.stem, folder, f'bridge = "{p}"'), store) for p in (here, there)]
    assert plans[0].jobs[0].recipe_id == plans[1].jobs[0].recipe_id
    assert plans[0].jobs[0].recipe.params["bridge"] == lora.digest(here)
    made = generate(plans[0], store)
    assert made.complete
    assert {tuple(r["flags"]) for r in store.records() if r["kind"] == "image"} == {("attention=gather",)}
    changed = {n: p._replace(b=2 * p.b) for n, p in lora.load(there).items()}
    other = make_plan(suite(tmp_path / "c", folder, f'bridge = "{there}"'), Store(tmp_path / "other"))
    lora.save(changed, there)
    result = generate(other, Store(tmp_path / "other"))
    assert result.made == 0
    assert {f.reason for f in result.failures} == {"prerequisite"}
    assert "Scale-DiT: bridge" in result.failures[0].message


def test_without_weights_the_plan_says_how_to_get_them_and_nothing_is_loaded(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("methods.backbones.flux.load_low", lambda *a: pytest.fail("loaded"))
    plan = make_plan(suite(tmp_path, folder), Store(tmp_path / "store"))
    (blocked,) = plan.blocked
    assert "scrollbench train scale-dit --backbone flux-dev --data FOLDER --out DIR" in blocked.reason
    assert "343 layers, rank 16" in blocked.reason
    with pytest.raises(PrerequisiteError, match="scrollbench train scale-dit") as caught:
        generate(plan, Store(tmp_path / "store"))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("more", "width", "message"),
    [
        ('order = "hilbrt"', 64, "unknown order of tokens 'hilbrt'; did you mean 'hilbert"),
        ('flow = "sine"', 64, "unknown flow 'sine'; did you mean 'cosine'"),
        ('bridge = "none"', 80, r"windows of 32 px \(4 tokens\).*got 80x32; nearest that fits: 64x32"),
        ("window = 5", 64, "a window of 5 tokens is not whole tokens of a picture 2 times smaller; nearest window: 4"),
        ("kept = 3", 64, "kept must be 1 to 2, the steps; got 3"),
        ("ntk = 0.0", 64, "ntk must be above 0"),
        ("ratio = 0", 64, "ratio must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused_when_the_plan_is_made(
    tmp_path: Path, folder: Path, more: str, width: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.backbones.flux.load_low", lambda *a: pytest.fail("loaded"))
    text = SUITE.format(folder=folder, width=width, more="")
    knob = more.partition(" =")[0]
    text = "\n".join(line for line in text.splitlines() if not line.startswith(f"{knob} =")) + f"\n{more}\n"
    with pytest.raises(UsageError, match=message):
        make_plan(small(tmp_path, text), Store(tmp_path / "store"))


def test_an_adapter_for_another_network_is_refused_when_the_plan_is_made(tmp_path: Path, folder: Path) -> None:
    from tests.methods.test_lora import ADAPTER

    with pytest.raises(UsageError, match=r"is no adapter for flux-dev: .*lora_A"):
        make_plan(suite(tmp_path, folder, f'bridge = "{ADAPTER}"'), Store(tmp_path / "store"))


def test_other_networks_and_loops_are_refused(tmp_path: Path, backbone: Any) -> None:
    with pytest.raises(UsageError, match="works inside FLUX's transformer; backbone sdxl has none"):
        ours(sdxl(model=str(write_sdxl(tmp_path))))
    with pytest.raises(UsageError, match=r"cannot be outlined .*; scale-dit works inside FLUX's transformer: use"):
        scale_dit.requires(sd35_medium.outline, CANVAS, scale_dit.resolve(KNOBS))
    with pytest.raises(UsageError, match="cannot make a loop"):
        ours(backbone, Canvas(64, 32, loop=True))


# -- the full size


def test_the_full_size_passes_on_the_meta_device_and_counts_the_blocks_of_its_mask() -> None:
    whole = flux_dev.skeleton(precision="bf16")
    layout = Layout((16, 64), 512)
    network = Bridged(whole, {}, layout, whole.condition("a boat"), 4.5)
    x, low = torch.empty(1, 16, 32, 128, device="meta"), torch.empty(1, 16, 8, 32, device="meta")
    with counting() as tally, torch.no_grad():
        assert network(x, low, torch.tensor(500.0)).shape == x.shape
    products = int(blocks(layout)[0].sum()) * BLOCK**2
    assert tally.attention == 57 * 4 * products * 3072
    assert whole.meter.nfe == 1
