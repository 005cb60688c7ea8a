"""FlashVSR's networks against numbers of the released code; streaming against one shot; gathered blocks against all."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from methods.scrollsr.blocks import Sparse, gathered, near
from methods.scrollsr.colour import adain, wavelet
from methods.scrollsr.decoder import Decoder
from methods.scrollsr.projector import Past, Projector
from methods.scrollsr.rules import schedule, side
from methods.scrollsr.stream import FULL, Networks, Stream
from methods.scrollsr.transformer import Pair, Sizes, Transformer
from tests.support.golden_cases import GOLDENS, load_arrays

Arrays = dict[str, torch.Tensor]


def case(name: str) -> tuple[dict[str, Any], Arrays]:
    """The entry and arrays of ``flashvsr_NAME``, floats in double precision."""
    entry, arrays = load_arrays(f"flashvsr_{name}")
    return entry, {k: v.double() if v.is_floating_point() else v for k, v in arrays.items()}


def weights(name: str) -> Arrays:
    return {k: v.double() for k, v in load_file(GOLDENS / "weights" / f"flashvsr_{name}.safetensors").items()}


def filled(network: Any, name: str) -> Any:
    network.load_state_dict(weights(name))
    return network.double().eval().requires_grad_(False)


def projector(own: bool = False) -> Projector:
    return filled(Projector((2, 6), 24, own=own), "lq")


def transformer(name: str = "dit") -> Transformer:
    sizes = json.loads((GOLDENS / "weights" / f"flashvsr_{name}.config.json").read_text())
    known = Sizes.__dataclass_fields__
    return filled(Transformer(Sizes(**{k: v for k, v in sizes.items() if k in known})), name)


def decoder() -> Decoder:
    return filled(Decoder((4, 5, 4, 4)), "tcdecoder")


def clip(entry: dict[str, Any], frames: int, height: int, width: int) -> torch.Tensor:
    """The clip of a case, (3, frames, height, width), by its formula."""
    a, b, k, d, e = entry["settings"]["clip_coefficients"]
    c, t, y, x = np.meshgrid(*(np.arange(float(n)) for n in (3, frames, height, width)), indexing="ij")
    waves = 0.5 * np.sin(a * x + 0.7 * c + 0.3 * t) + 0.3 * np.cos(b * y - 0.5 * c + k * t)
    return torch.from_numpy(waves + 0.2 * np.sin(d * x * y + e * t))


def off(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())


# -- the released code's numbers


@pytest.mark.parametrize(("name", "own"), [("lq_v1", True), ("lq_v11", False)])
def test_both_projectors_equal_the_released_ones(name: str, own: bool) -> None:
    entry, arrays = case(name)
    frames = clip(entry, 13, 64, 96)
    assert float(frames.sum()) == pytest.approx(float(arrays["clip_sum"]), abs=1e-9)
    (tokens,) = projector(own)(frames, Past())
    assert off(tokens, arrays["tokens_0"][0]) < entry["suggested_tolerance"]
    (other,) = projector(not own)(frames, Past())  # the control: the other version's rule
    assert off(other, arrays["tokens_0"][0]) == pytest.approx(
        entry["negative_controls_max_abs"]["the other version's cache rule"]
    )


def test_the_chosen_blocks_are_the_released_ones() -> None:
    entry, arrays = case("mask")
    for i, sub in enumerate(entry["settings"]["subcases"]):
        rule = Sparse(*sub["grid_blocks_h_w"], sub["local_range"], sub["topk_ratio"])
        assert rule.budget == sub["topk"]
        assert torch.equal(near(rule.rows, rule.columns, rule.reach), arrays[f"local_mask_{i}"])
        q, k = (arrays[f"{n}_windows_{i}"].unflatten(-1, (sub["heads"], -1)) for n in "qk")
        assert torch.equal(rule.choose(q, k), arrays[f"block_mask_{i}"])
        for wrong in (replace(rule, reach=rule.reach + 2), replace(rule, ratio=rule.ratio / 2)):
            assert not torch.equal(wrong.choose(q, k), arrays[f"block_mask_{i}"])


class Recorded:
    """Attention that notes which blocks were chosen."""

    def __init__(self, rule: Sparse) -> None:
        self.rule, self.masks = rule, list[torch.Tensor]()

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self.masks.append(self.rule.choose(q, k))
        return gathered(q, k, v, self.masks[-1])


def velocities(arrays: Arrays, network: Transformer, attention: Any) -> list[torch.Tensor]:
    """The three steps of the case."""
    told, kept, made = network.tell(arrays["context"][0]), list[Pair](), []
    tokens = arrays["lq_tokens"][0].view(10, 8 * 24, -1)
    for first, last in ((0, 6), (6, 8), (8, 10)):
        latents, told_here = arrays["latents"][0][:, first:last], [tokens[first:last].flatten(0, 1)]
        made.append(network(latents, told_here, first, told, kept, attention))
    return made


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Every block sees every block."""
    return gathered(q, k, v, torch.ones((q.shape[2], q.shape[0], k.shape[0]), dtype=torch.bool))


def test_the_streaming_transformer_equals_the_released_one_block_by_block() -> None:
    entry, arrays = case("dit_stream")
    attention, network = Recorded(Sparse(1, 3, 3, entry["settings"]["topk_ratio"])), transformer()
    made = velocities(arrays, network, attention)
    for step in range(3):
        for layer in range(2):
            assert torch.equal(attention.masks[2 * step + layer], arrays[f"block_mask_{step}_{layer}"])
        assert off(made[step], arrays[f"velocity_{step}"][0]) < entry["suggested_tolerance"]
    empty = sum(int((~mask.any(-1)).sum()) for mask in attention.masks)
    assert empty == entry["query_blocks_without_any_key"]
    wrong = max(off(v, arrays[f"velocity_{i}"][0]) for i, v in enumerate(velocities(arrays, network, dense)))
    assert wrong > 0.9 * entry["negative_controls_max_abs"]["dense attention"]


def test_the_decoder_equals_the_released_one() -> None:
    entry, arrays = case("tcdecoder")
    frames, every = clip(entry, 13, 32, 48), entry["settings"]["stored_every"]
    assert float(frames.sum()) == pytest.approx(float(arrays["cond_sum"]), abs=1e-9)
    latents = arrays["latents"][0].transpose(0, 1)

    def decoded(seen: torch.Tensor) -> torch.Tensor:
        return (decoder()(latents, seen, {})[:, 3:] + 1) / 2

    front = frames[:, :1].expand(-1, 3, -1, -1)
    made = decoded(torch.cat([front, frames], dim=1))
    assert off(made[..., ::every, ::every].transpose(0, 1), arrays["frames_sub"][0]) < entry["suggested_tolerance"]
    assert off(made.mean((0, 2, 3)), arrays["frames_mean"][0]) < entry["suggested_tolerance"]
    wrong = decoded(torch.cat([frames, frames[:, -1:].expand(-1, 3, -1, -1)], dim=1))
    assert off(wrong[..., ::every, ::every].transpose(0, 1), arrays["frames_sub"][0]) > 1


def test_colours_are_put_back_as_released() -> None:
    entry, arrays = case("color")
    made, seen = arrays["hq"][0], 0.7 * clip(entry, 2, 20, 18) + 0.1
    assert float(seen.sum()) == pytest.approx(float(arrays["lq_sum"]), abs=1e-9)
    assert off(adain(made, seen), arrays["adain"][0]) < entry["suggested_tolerance"]
    assert off(wavelet(made, seen), arrays["wavelet"][0]) < entry["suggested_tolerance"]
    assert off(wavelet(made, seen), arrays["adain"][0]) == pytest.approx(
        entry["negative_controls_max_abs"]["wavelet instead of adain"]
    )


def networks() -> Networks:
    return Networks(projector(), transformer("dit16"), decoder(), case("pipeline")[1]["context"][0])


def streamed(parts: Networks, frames: torch.Tensor, noise: torch.Tensor, sparse: float) -> tuple[torch.Tensor, ...]:
    """All frames of a clip, and the enlarged ones that they stand for."""
    stream = Stream(parts, *frames.shape[-2:], sparse=sparse)
    steps, first = [stream.step(frames[:, :25], noise[:, :6])], 25
    for i in range(6, noise.shape[1], 2):
        steps.append(stream.step(frames[:, first : first + 8], noise[:, i : i + 2]))
        first += 8
    return tuple(torch.cat(parts, dim=1) for parts in zip(*steps, strict=True))


def test_the_whole_clip_equals_the_released_pipeline() -> None:
    entry, arrays = case("pipeline")
    settings, every = entry["settings"], entry["stored_every"]
    frames = clip(entry, 33, 128, 256)
    assert float(frames.sum()) == pytest.approx(float(arrays["clip_sum"]), abs=1e-8)
    sparse = settings["topk_ratio"] * 128 * 256 / FULL
    raw, seen = streamed(networks(), frames, arrays["noise"][0], sparse)
    assert torch.equal(seen, frames[:, :29])
    fixed, tolerance = adain(raw, seen), entry["suggested_tolerance"]
    assert off(raw[..., :: 2 * every, :: 2 * every], arrays["frames_raw_sub"]) < tolerance
    assert off(fixed[..., ::every, ::every], arrays["frames_sub"]) < tolerance
    for name, found in (("mean", fixed.mean((2, 3))), ("std", fixed.std((2, 3), correction=0))):
        assert off(found, arrays[f"frames_{name}"]) < tolerance
    assert off(raw, fixed) == pytest.approx(entry["negative_controls_max_abs"]["no colour fix"], rel=1e-4)


def test_frames_and_sizes_are_the_released_ones_where_nothing_is_cut() -> None:
    _, arrays = case("rules")
    for real, *row in arrays["frames"].tolist():
        assert list(schedule(real, cut=True)) == row
        ours = schedule(real)
        assert ours.out >= max(real, 21)
        assert (list(ours) == row) == (row[-1] == real)
    for _, _, _, *scaled, width, height in arrays["sizes"].int().tolist():
        assert [side(n, cut=True) for n in scaled] == [width, height]
        assert [side(n) for n in scaled] == [n if n == t else t + 128 for n, t in zip(scaled, (width, height))]
