"""FlashVSR's networks against numbers of the released code; streaming against one shot; gathered blocks against all."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from methods.scrollsr.blocks import Sparse, from_blocks, gathered, near, to_blocks
from methods.scrollsr.colour import adain, wavelet
from methods.scrollsr.decoder import Decoder
from methods.scrollsr.projector import Past, Projector
from methods.scrollsr.rules import schedule, side
from methods.scrollsr.stream import FULL, Networks, Stream
from methods.scrollsr.transformer import Pair, Sizes, Transformer
from tests.support.close import products, rounding
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


# -- streaming against one shot


@pytest.mark.parametrize("own", [True, False])
def test_chunks_one_by_one_are_the_whole_clip(own: bool) -> None:
    entry, _ = case("lq_v11")
    frames, network, past = clip(entry, 13, 64, 96), projector(own), Past()
    (whole,) = network(frames, Past())
    pieces = [network(part, past)[0] for part in frames.split([5, 4, 4], dim=1)]
    assert torch.equal(torch.cat(pieces), whole)
    later = network(frames[:, 4:], Past())[0]  # the control: another past, which version 1 does not look at
    assert (off(later, whole[24:]) > 0.1) is not own


def test_latents_one_by_one_are_decoded_as_all_at_once() -> None:
    _, arrays = case("tcdecoder")
    latents, network, past = arrays["latents"][0].transpose(0, 1), decoder(), dict[int, torch.Tensor]()
    seen = torch.linspace(-1, 1, 3 * 16 * 32 * 48, dtype=torch.float64).view(3, 16, 32, 48)
    whole = network(latents, seen, {})
    pieces = [network(latents[:, [i]], seen[:, 4 * i : 4 * i + 4], past) for i in range(4)]
    assert torch.equal(torch.cat(pieces, dim=1), whole)
    assert off(network(latents[:, 1:], seen[:, 4:], {}), whole[:, 4:]) > 0.1  # the control: without its past


def visible(rule: Sparse, latest: int) -> Any:
    """Attention of one shot over five slots: the first three see each other, each later one what it may of ``latest``
    slots and itself."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        n = rule.rows * rule.columns
        mask = torch.zeros((q.shape[2], 5 * n, 5 * n), dtype=torch.bool)
        for begin, first, last in ((0, 0, 3), (3, 3 - latest, 4), (4, 4 - latest, 5)):
            rows = slice(begin * n, last * n)
            keys = slice(first * n, last * n)
            mask[:, rows, keys] = rule.choose(q[rows], k[keys])
        return masked(q, k, v, mask)

    return attend


def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Dense attention under a mask of blocks blown up to tokens: what gathering must equal."""
    tokens = q.shape[1]
    allowed = mask.repeat_interleave(tokens, 1).repeat_interleave(tokens, 2)
    scores = torch.einsum("ihd,jhd->hij", q.flatten(0, 1), k.flatten(0, 1)) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num(0.0)
    return torch.einsum("hij,jhd->ihd", weights, v.flatten(0, 1)).view(q.shape)


def test_the_transformer_sees_as_in_one_shot_with_three_slots_behind() -> None:
    entry, arrays = case("dit_stream")
    rule, network = Sparse(1, 3, 3, entry["settings"]["topk_ratio"]), transformer()
    streaming = torch.cat(velocities(arrays, network, rule), dim=1)

    def shot(latest: int) -> torch.Tensor:
        told = network.tell(arrays["context"][0])
        return network(arrays["latents"][0], [arrays["lq_tokens"][0]], 0, told, [], visible(rule, latest))

    assert off(shot(3), streaming) < rounding(1.0, products(network), "float32")  # its norms are in single precision
    assert off(shot(2), streaming) > 1e-3  # the control: a shorter window


def test_gathered_blocks_are_attention_under_their_mask_and_a_block_without_any_sees_zeros() -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn((n, 128, 2, 4), dtype=torch.float64, generator=draw) for n in (3, 6, 6))
    mask = torch.rand((2, 3, 6), generator=draw) < 0.4
    mask[1, 2] = False
    seen = gathered(q, k, v, mask)
    assert off(seen, masked(q, k, v, mask)) < 1e-14
    assert not seen[2, :, 1].any()
    mask[0, 0, 0] ^= True
    assert off(seen, gathered(q, k, v, mask)) > 1e-3  # the control: one block


def test_blocks_hold_two_frames_of_8_x_8_tokens() -> None:
    places = torch.cartesian_prod(*(torch.arange(n) for n in (4, 16, 24)))
    blocks = to_blocks(places, (4, 16, 24))
    assert torch.equal(from_blocks(blocks, (4, 16, 24)), places)
    expected = [[f, r, c] for f in (0, 2) for r in (0, 8) for c in (0, 8, 16)]
    assert blocks.amin(1).tolist() == expected
    assert (blocks.amax(1) - blocks.amin(1)).unique(dim=0).tolist() == [[1, 7, 7]]


# -- all of it


def networks() -> Networks:
    return Networks(projector(), transformer("dit16"), decoder(), case("pipeline")[1]["context"][0])


def streamed(parts: Networks, frames: torch.Tensor, noise: torch.Tensor, sparse: float) -> torch.Tensor:
    """All frames of a clip that can be made."""
    stream = Stream(parts, *frames.shape[-2:], sparse=sparse)
    steps, made = [stream.step(frames[:, :25], noise[:, :6])], 21
    for i in range(6, noise.shape[1], 2):
        steps.append(stream.step(frames[:, made : made + 12], noise[:, i : i + 2]))
        made += 8
    return torch.cat(steps, dim=1)


def test_the_whole_clip_equals_the_released_pipeline() -> None:
    entry, arrays = case("pipeline")
    settings, every = entry["settings"], entry["stored_every"]
    frames = clip(entry, 33, 128, 256)
    assert float(frames.sum()) == pytest.approx(float(arrays["clip_sum"]), abs=1e-8)
    sparse = settings["topk_ratio"] * 128 * 256 / FULL
    raw = streamed(networks(), frames, arrays["noise"][0], sparse)
    fixed, tolerance = adain(raw, frames[:, :29]), entry["suggested_tolerance"]
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
