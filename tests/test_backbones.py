"""Backbones: loading real layouts, identity without loading, refusals, guidance, and the meter."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import methods.backbones.weights as weights
from bench.errors import PrerequisiteError, UsageError
from bench.ids import folder_digest
from methods.backbones import Conditioning
from methods.backbones.meter import Meter
from methods.backbones.stable_diffusion import LAYOUT, from_pretrained, world_sd
from methods.backbones.tiny import write_tiny_sd


@pytest.fixture
def copy(tiny_sd: Path, tmp_path: Path) -> Path:
    """A copy of the tiny folder to damage."""
    return Path(shutil.copytree(tiny_sd, tmp_path / "sd"))


def test_a_folder_is_described_by_its_digest_without_importing_torch(tiny_sd: Path) -> None:
    info = from_pretrained.describe(model=str(tiny_sd))
    assert (info.name, info.family, info.weights_digest) == ("diffusers", "latent", folder_digest(tiny_sd, LAYOUT))
    script = (
        "import sys, methods.multidiffusion; from methods.backbones.stable_diffusion import from_pretrained as f;"
        f"print(f.describe(model={str(tiny_sd)!r}).weights_digest, 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.split() == [info.weights_digest, "False"]


def test_a_loaded_backbone_knows_its_geometry_and_identity(tiny_sd: Path) -> None:
    b = from_pretrained(model=str(tiny_sd), batch=3)
    assert (b.window, b.factor, b.channels, b.batch) == (4, 4, 4, 3)
    assert (b.name, b.family, b.precision, b.device.type) == ("diffusers", "latent", "fp32", "cpu")
    assert b.weights == from_pretrained.describe(model=str(tiny_sd)).weights_digest
    assert not any(p.requires_grad for p in b.unet.parameters())


def test_changed_weights_change_the_identity_and_the_card_does_not(copy: Path) -> None:
    before = from_pretrained.describe(model=str(copy)).weights_digest
    (copy / "card.json").write_text("{}")
    assert from_pretrained.describe(model=str(copy)).weights_digest == before
    shutil.copy(
        write_tiny_sd(copy.parent / "other", seed=1) / "unet/diffusion_pytorch_model.safetensors", copy / "unet"
    )
    assert from_pretrained.describe(model=str(copy)).weights_digest != before


def test_half_precision_files_are_widened_for_fp32(tiny_sd: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    halved = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    for module in (halved.unet, halved.vae, halved.text_encoder):
        module.half()
    halved.save_pretrained(tmp_path / "half")
    b = from_pretrained(model=str(tmp_path / "half"))
    kept = {p.dtype for m in (b.unet, b.vae, b.text_encoder) for p in m.parameters()}
    assert kept == {torch.float32}
    wanted = halved.unet.conv_out.weight.detach().float()
    assert torch.equal(b.unet.conv_out.weight, wanted)


@pytest.mark.parametrize(
    ("precision", "network", "rest"), [("bf16", "bfloat16", "float32"), ("fp64", "float64", "float64")]
)
def test_only_the_unet_runs_in_low_precision(tiny_sd: Path, precision: str, network: str, rest: str) -> None:
    b = from_pretrained(model=str(tiny_sd), precision=precision)
    assert b.unet.dtype == getattr(torch, network)
    assert b.dtype == b.vae.dtype == b.text_encoder.dtype == getattr(torch, rest)
    out = b.guided(torch.zeros(1, 4, 4, 4, dtype=b.dtype), torch.tensor(1), b.condition("a"), 2.0)
    assert out.dtype == b.dtype


def test_guidance_is_u_plus_g_times_c_minus_u_in_any_batch(tiny_sd: Path) -> None:
    b = from_pretrained(model=str(tiny_sd), precision="fp64", batch=2)
    x = torch.randn(5, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t, told = torch.tensor(500), b.condition("a boat", "blurry")
    u, c = (b.predict(x, t, row.expand(5, -1, -1)) for row in told.embeds.split(1))
    b.meter.reset()
    torch.testing.assert_close(b.guided(x, t, told, 7.5), u + 7.5 * (c - u), atol=1e-12, rtol=0)
    assert b.meter.nfe == 10
    torch.testing.assert_close(b.guided(x, t, told, 1.0), c, atol=1e-12, rtol=0)
    assert b.meter.nfe == 15
    assert float((u - c).abs().max()) > 1e-6


def test_each_latent_may_have_its_own_prompt(tiny_sd: Path) -> None:
    b = from_pretrained(model=str(tiny_sd), precision="fp64", batch=2)
    x = torch.randn(3, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t, told = torch.tensor(500), [b.condition(p) for p in ("a boat", "a tent", "one moon")]
    each = Conditioning(torch.cat([c.embeds[:1] for c in told] + [c.embeds[1:] for c in told]))
    together = b.guided(x, t, each, 3.0)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], b.guided(x[i : i + 1], t, told[i], 3.0), atol=1e-12, rtol=0)
    with pytest.raises(UsageError, match="3 prompts for 2 latents"):
        b.guided(x[:2], t, each, 3.0)


def test_gradients_reach_the_latents_through_network_and_decoder(tiny_sd: Path) -> None:
    b = from_pretrained(model=str(tiny_sd))
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    b.decode(b.guided(x, torch.tensor(500), b.condition("a boat"), 2.0)).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


def test_decoding_undoes_encoding_in_shape_and_range(tiny_sd: Path) -> None:
    b = from_pretrained(model=str(tiny_sd))
    z = b.encode(torch.rand(2, 3, 16, 32, generator=torch.Generator().manual_seed(0)))
    assert z.shape == (2, 4, 4, 8)
    pictures = b.decode(z)
    assert pictures.shape == (2, 3, 16, 32)
    assert 0 <= float(pictures.min()) <= float(pictures.max()) <= 1


def test_a_prompt_longer_than_the_encoder_reads_is_flagged(tiny_sd: Path) -> None:
    b = from_pretrained(model=str(tiny_sd))
    b.condition("a boat")
    assert b.meter.flags == []
    long = b.condition("a boat " * 60)
    assert b.meter.flags == ["prompt-truncated"]
    assert long.embeds.shape == (2, 77, 16)


def test_a_scheduler_config_written_for_another_sampler_makes_ddim(copy: Path) -> None:
    from diffusers import DDIMScheduler, PNDMScheduler

    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    ).save_pretrained(copy / "scheduler")
    made: Any = from_pretrained(model=str(copy)).scheduler(50)
    official = DDIMScheduler.from_pretrained(copy, subfolder="scheduler")
    official.set_timesteps(50)
    assert made.timesteps.tolist() == official.timesteps.tolist() == list(range(981, 0, -20))
    for key in ("clip_sample", "set_alpha_to_one", "prediction_type", "timestep_spacing", "steps_offset"):
        assert made.config[key] == official.config[key]
    assert torch.equal(made.alphas_cumprod, official.alphas_cumprod)


@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_outside_the_schedule_are_refused(tiny_sd: Path, steps: int) -> None:
    with pytest.raises(UsageError, match="steps must be 1 to 1000"):
        from_pretrained(model=str(tiny_sd)).scheduler(steps)


def test_all_that_is_wrong_with_a_folder_is_said_at_once(copy: Path) -> None:
    (copy / "unet/diffusion_pytorch_model.safetensors").rename(copy / "unet/diffusion_pytorch_model.bin")
    shutil.rmtree(copy / "vae")
    (copy / "text_encoder/config.json").write_text(json.dumps({"architectures": ["T5EncoderModel"]}))
    with pytest.raises(UsageError) as caught:
        from_pretrained.describe(model=str(copy))
    for part in (
        "unet has no *.safetensors (pickled",
        "vae/config.json is missing",
        "text_encoder is a T5EncoderModel",
    ):
        assert part in str(caught.value)


def test_a_partial_weights_file_is_refused_instead_of_filled_with_random_numbers(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    for part, file in (("text_encoder", "model.safetensors"), ("unet", "diffusion_pytorch_model.safetensors")):
        state = load_file(copy / part / file)
        state.pop(sorted(state)[0])
        save_file(state, copy / part / file, metadata={"format": "pt"})
        with pytest.raises(UsageError, match=f"{part} is partial: 1 tensors missing"):
            from_pretrained(model=str(copy))


def test_a_torn_weights_file_is_refused(copy: Path) -> None:
    file = copy / "vae/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UsageError, match="the weights do not load"):
        from_pretrained(model=str(copy))


def test_a_network_that_does_not_fit_its_decoder_is_refused(copy: Path, tiny_sd: Path) -> None:
    from diffusers import UNet2DConditionModel

    UNet2DConditionModel(
        sample_size=4, in_channels=9, out_channels=4, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16, attention_head_dim=2,
    ).save_pretrained(copy / "unet")  # fmt: skip
    with pytest.raises(UsageError, match="takes 9 channels"):
        from_pretrained(model=str(copy))


def test_a_hub_repository_that_was_never_fetched_names_the_command() -> None:
    model = "nobody/no-such-diffusion"
    with pytest.raises(PrerequisiteError, match="hf download nobody/no-such-diffusion --revision v2"):
        from_pretrained.describe(model=model, revision="v2")
    with pytest.raises(PrerequisiteError, match="hf download nobody/no-such-diffusion --include"):
        from_pretrained(model=model)


def test_a_hub_repository_is_the_folder_of_a_commit_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_sd: Path
) -> None:
    commit = "0123456789" * 4
    repo = tmp_path / "models--somebody--sd"
    shutil.copytree(tiny_sd, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = from_pretrained.describe(model="somebody/sd")
    assert found.source == f"somebody/sd@{commit}"
    assert found.weights_digest == from_pretrained.describe(model=str(tiny_sd)).weights_digest
    with pytest.raises(PrerequisiteError, match=f"at {'f' * 40} is not in the local cache"):
        from_pretrained.describe(model="somebody/sd", revision="f" * 40)
    (repo / "snapshots" / commit / "unet" / "config.json").unlink()
    with pytest.raises(PrerequisiteError, match=r"only in part in the local cache \(unet/config.json is missing\)"):
        from_pretrained.describe(model="somebody/sd")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "./nowhere"}, "no folder './nowhere'"),
        ({"model": "a/b/c"}, "expected a pipeline folder or a hub id"),
        ({}, "needs the option 'model'"),
        ({"model": "x/y", "devise": "cpu"}, "did you mean 'device'"),
        ({"model": "x/y", "precision": "fp8"}, "unknown precision 'fp8'"),
        ({"model": "x/y", "precision": "fp16"}, "fp16 is for GPUs"),
        ({"model": "x/y", "device": "gpu"}, "unknown device 'gpu'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_pretrained(**options)


def test_missing_world_weights_name_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "WORLD", tmp_path / "world-sd")
    with pytest.raises(PrerequisiteError, match="scrollbench world train world-sd"):
        world_sd.describe()
    with pytest.raises(PrerequisiteError, match="world-sd are not in"):
        world_sd()


def test_world_sd_loads_through_the_same_door(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "WORLD", tiny_sd)
    b = world_sd(batch=2)
    assert (b.name, b.weights) == ("world-sd", world_sd.describe(device="cpu").weights_digest)


def test_the_meter_books_inner_stages_apart_and_starts_anew_on_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("methods.backbones.meter.time.perf_counter", lambda: float(next(clock)))
    meter = Meter()
    with meter.stage("denoise"):  # 0
        with meter.stage("denoise"):
            meter.count(6)
        with meter.stage("decode"):  # 1
            pass  # 2
    cost = meter.cost()  # 3
    assert dict(cost.seconds) == {"denoise": 2.0, "decode": 1.0}
    assert cost.nfe == 6
    meter.flag("odd")
    meter.flag("odd")
    assert meter.flags == ["odd"]
    meter.reset()
    assert (meter.cost().nfe, dict(meter.cost().seconds), meter.flags) == (0, {}, [])


def test_the_peak_is_the_high_water_mark_since_the_reset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("methods.backbones.meter.PROC", tmp_path)
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    1234 kB\nVmRSS:\t     900 kB\n")
    meter = Meter()
    assert (tmp_path / "clear_refs").read_text() == "5"
    assert meter.cost().peak_bytes == 1234 * 1024


def test_a_peak_that_cannot_be_watched_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("methods.backbones.meter.PROC", tmp_path / "no-proc")
    assert Meter().cost().peak_bytes is None
