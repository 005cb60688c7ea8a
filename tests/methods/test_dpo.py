"""Diffusion-DPO against the released scripts' numbers, and MultiDiffusion-DPO against it; hand-made values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from methods.shared import lora
from methods.shared.trained import adapted
from methods.shared.windows import Window, grid, merge
from methods.training import dpo
from tests.support.golden_cases import load_arrays, load_network

Arrays = dict[str, torch.Tensor]


def case(name: str) -> tuple[dict[str, Any], Arrays, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A case in double precision: entry, arrays, noisy latents (2n), times (2n), the noise repeated."""
    entry, arrays = load_arrays(name)
    arrays = {k: v.double() if v.is_floating_point() else v for k, v in arrays.items()}
    betas = entry["scheduler"]["config"]
    line = torch.linspace(betas["beta_start"] ** 0.5, betas["beta_end"] ** 0.5, 1000) ** 2
    kept, n = (1 - line).cumprod(0).double(), entry["settings"]["pairs"]
    t = torch.tensor(entry["settings"]["timesteps"]).repeat(2)
    noise = arrays["noise"][:n].repeat(2, 1, 1, 1)
    return entry, arrays, dpo.noised(arrays["latents"], noise, kept[t]), t, noise


def told(entry: dict[str, Any], arrays: Arrays) -> dict[str, Any]:
    added = {"text_embeds": arrays["pooled"].repeat(2, 1), "time_ids": arrays["time_ids"]} if "pooled" in arrays else {}
    texts = arrays["text_embeds"].repeat(2, 1, 1)
    return {"encoder_hidden_states": texts, **({"added_cond_kwargs": added} if added else {})}


def network(name: str) -> Any:
    return load_network(f"weights/{name}").double().eval().requires_grad_(False)


def test_the_loss_its_parts_and_its_gradient_are_those_of_the_authors_code() -> None:
    entry, arrays, x, t, noise = case("dpo_official")
    unet, said, results = network("unet_dpo"), told(*case("dpo_official")[:2]), entry["results"]
    own = dict(unet.named_parameters())
    moved = {k: (v + arrays[f"delta_{k}"] if f"delta_{k}" in arrays else v) for k, v in own.items()}
    for name in moved:
        moved[name] = moved[name].detach().clone().requires_grad_(True)
    with torch.no_grad():
        reference = dpo.errors(unet(x, t, **said).sample, noise)
    predicted = torch.func.functional_call(unet, moved, (x, t), said).sample
    policy = dpo.errors(predicted, noise)
    margin = dpo.inside(policy, reference, entry["settings"]["beta"])
    loss = dpo.preference_loss(margin)
    close = {"rtol": 0, "atol": entry["suggested_tolerance"]}
    torch.testing.assert_close(policy, arrays["losses_model"], **close)
    torch.testing.assert_close(reference, arrays["losses_reference"], **close)
    # the file's tables are those of float32 scaled by beta, ours as well: what remains is their rounding
    torch.testing.assert_close(margin, arrays["inside"], rtol=1e-6, atol=0)
    assert float(loss.detach()) == pytest.approx(results["loss"], rel=1e-6)
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in moved.values() if p.grad is not None))
    assert norm == pytest.approx(results["grad_norm"], rel=1e-6)
    for name in (k.removeprefix("grad_") for k in arrays if k.startswith("grad_") and k != "grad_norm"):
        torch.testing.assert_close(moved[name].grad, arrays[f"grad_{name}"], rtol=1e-5, atol=1e-6)
    mistakes = entry["negative_controls"]
    swapped = dpo.inside(policy.roll(len(policy) // 2), reference.roll(len(policy) // 2), entry["settings"]["beta"])
    assert float(dpo.preference_loss(swapped)) == pytest.approx(mistakes["winner and loser swapped (loss)"], rel=1e-6)
    summed = dpo.inside(policy * noise[0].numel(), reference * noise[0].numel(), entry["settings"]["beta"])
    assert float(dpo.preference_loss(summed)) == pytest.approx(
        mistakes["errors summed instead of averaged (loss)"], rel=1e-6
    )
    plain = [dpo.errors(p, noise, "norm") for p in (predicted, _reference(unet, x, t, said))]
    margin = dpo.inside(*plain, entry["settings"]["beta_for_norm_form"], "full")
    assert float(dpo.preference_loss(margin)) == pytest.approx(results["norm_form_loss"], rel=1e-6)


@torch.no_grad()
def _reference(unet: Any, x: torch.Tensor, t: torch.Tensor, said: dict[str, Any]) -> torch.Tensor:
    return unet(x, t, **said).sample


@pytest.mark.parametrize(
    ("name", "base", "convention", "other"),
    [("dpo_diffusers_sdxl_lora", "unet_dpo_xl", "half", "full"), ("dpo_diffusers_sd_lora", "unet_dpo", "full", "half")],
)
def test_low_rank_pairs_give_the_numbers_of_diffusers_scripts(
    name: str, base: str, convention: str, other: str
) -> None:
    entry, arrays, x, t, noise = case(name)
    unet, said = network(base), told(entry, arrays)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in arrays.items():
        if key.startswith("lora_"):
            layer, _, part = key.removeprefix("lora_").removesuffix(".weight").rpartition(".lora_")
            found.setdefault(layer, {})[part] = value.requires_grad_(True)
    adapter = {layer: lora.Lora(pair["A"], pair["B"]) for layer, pair in found.items()}
    with torch.no_grad():
        reference = dpo.errors(unet(x, t, **said).sample, noise)
    with adapted(unet, adapter):
        policy = dpo.errors(unet(x, t, **said).sample, noise)
    margin = dpo.inside(policy, reference, entry["settings"]["beta"], convention)
    loss, close = dpo.preference_loss(margin), entry["suggested_tolerance"]
    assert float(loss.detach()) == pytest.approx(entry["results"]["loss"], abs=close)
    torch.testing.assert_close(margin, arrays["inside"], rtol=0, atol=close)
    assert dpo.accuracy(margin) == pytest.approx(entry["results"]["implicit_acc"], abs=1e-6)
    loss.backward()
    norm = math.sqrt(sum(float(m.grad.square().sum()) for pair in found.values() for m in pair.values()))
    assert norm == pytest.approx(entry["results"]["grad_norm_of_lora"], rel=1e-3)
    wrong = dpo.preference_loss(dpo.inside(policy, reference, entry["settings"]["beta"], other))
    assert abs(float(wrong) - entry["results"]["loss"]) > 10 * close  # the control: the other convention


def test_both_conventions_of_beta_are_one_at_5000_and_2500() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.rand(6, generator=generator), torch.rand(6, generator=generator)
    half, full = dpo.inside(policy, reference, 5000, "half"), dpo.inside(policy, reference, 2500, "full")
    assert torch.equal(half, full)
    assert not torch.equal(half, dpo.inside(policy, reference, 5000, "full"))


@pytest.mark.parametrize("form", dpo.FORMS)
def test_at_the_reference_the_loss_is_log_2_and_its_gradient_makes_the_winner_likelier(form: str) -> None:
    """A model that answers w x. By hand: errors are (w x - e)^2, so d loss / d w is beta / 4 of their difference."""
    x, e = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([[0.5], [0.5]]).double()
    w = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    beta = 2.0
    policy = dpo.errors(w * x, e, form)
    margin = dpo.inside(policy, policy.detach(), beta)
    loss = dpo.preference_loss(margin)
    assert float(loss.detach()) == pytest.approx(math.log(2), rel=1e-12)
    assert dpo.accuracy(margin) == 0.5
    loss.backward()
    slope = {"squared": [2 * 0.5 * 1, 2 * 1.5 * 2], "norm": [1.0, 2.0]}[form]
    assert float(w.grad) == pytest.approx(0.25 * beta * (slope[0] - slope[1]), rel=1e-12)
    with torch.no_grad():
        after = dpo.errors((w - 0.01 * w.grad) * x, e, form)
    assert float(dpo.inside(after, policy.detach(), beta)) > 0  # the winner's error falls behind the loser's


def test_a_moved_linear_model_has_the_loss_worked_out_by_hand() -> None:
    x, e = torch.tensor([[1.0], [2.0]]).double(), torch.zeros(2, 1).double()
    policy, reference = dpo.errors(0.5 * x, e), dpo.errors(x, e)  # 0.25, 1 and 1, 4
    margin = dpo.inside(policy, reference, 2.0)  # -1 ((0.25 - 1) - (1 - 4)) = -2.25
    assert float(margin) == pytest.approx(-2.25)
    assert float(dpo.preference_loss(margin)) == pytest.approx(math.log(1 + math.exp(2.25)))


# -- windows


def far_sighted(x: torch.Tensor, t: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Answers with what depends on the whole window."""
    return x * (1 + t.view(-1, 1, 1, 1)) + x.mean((1, 2, 3), keepdim=True)


def views(x: torch.Tensor, t: torch.Tensor, windows: Sequence[Window]) -> torch.Tensor:
    return dpo.aggregated(dpo.on_windows(far_sighted, x, t, windows, 3), windows, (x.shape[-2], x.shape[-1]))


def test_one_window_is_diffusion_dpo_and_two_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(4, 2, 8, 8, generator=generator).double(), torch.tensor([0.1, 0.2, 0.1, 0.2]).double()
    whole = far_sighted(x, t, range(4))
    assert torch.equal(views(x, t, grid(8, 8, 8, 4)), whole)
    assert not torch.allclose(views(x, t, grid(8, 8, 4, 4)), whole, atol=1e-3)


def test_windows_are_averaged_as_multidiffusion_averages_them() -> None:
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, 2, 4, 12, generator=generator).double(), torch.tensor([0.1, 0.7]).double()
    windows = grid(4, 12, 4, 2)
    for row in range(2):
        cut = torch.stack([x[row, :, :, w.x : w.x + 4] for w in windows])
        mean = merge(far_sighted(cut, t[row].expand(len(windows)), []), windows, (4, 12))
        assert torch.equal(views(x, t, windows)[row], mean[0])


def test_single_windows_have_errors_of_their_own() -> None:
    wanted = torch.zeros(1, 1, 2, 4)
    windows = grid(2, 4, 2, 1)
    answers = [torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)]
    assert float(dpo.window_errors(answers, wanted, windows, "squared")) == 1.0
    whole = dpo.errors(dpo.aggregated(answers, windows, (2, 4)), wanted)
    assert float(whole) == 0.5  # they agree in the outer columns only


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_a_target_and_the_noisy_picture_tell_picture_and_noise(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, e = (torch.randn(2, 1, 2, 2, generator=generator).double() for _ in range(2))
    kept = torch.tensor([0.9, 0.2]).double()
    a, s = kept.sqrt().view(2, 1, 1, 1), (1 - kept).sqrt().view(2, 1, 1, 1)
    z, answer = dpo.noised(x, e, kept), dpo.target(x, e, kept, kind)
    back = {"epsilon": (z - s * answer) / a, "sample": answer, "v_prediction": a * z - s * answer}[kind]
    torch.testing.assert_close(back, x, rtol=1e-12, atol=1e-12)
