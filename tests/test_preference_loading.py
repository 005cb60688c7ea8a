"""Official layouts of the preference scorers load exactly, or are refused with what is wrong."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tiny_scorers import MAKERS, scores

from bench import extractors
from bench.errors import PrerequisiteError, UsageError
from bench.weights import snapshot

WEIGHTS = {"hps": "HPS_v2.1_compressed.pt", "reward": "ImageReward.pt", "pick": "model.safetensors"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("scorers")
    return {role: make(root / role) for role, make in MAKERS.items()}


def rewritten(folder, target, role, change):
    """A copy of a folder whose weights file went through ``change``."""
    shutil.copytree(folder, target)
    path = target / WEIGHTS[role]
    if path.suffix == ".safetensors":
        save_file(change(load_file(path)), path)
    else:
        torch.save(change(torch.load(path, weights_only=True)), path)
    return target


@pytest.mark.parametrize("role", MAKERS)
def test_a_missing_extra_or_misshapen_key_is_refused(role, folders, tmp_path):
    def on(state, act):
        inner = state.get("state_dict", state)
        act(inner)
        return state

    some = {"hps": "visual.proj", "reward": "blip.visual_encoder.blocks.1.attn.qkv.bias", "pick": "logit_scale"}[role]
    extra = {"hps": "score_head", "reward": "blip.text_encoder.pooler", "pick": "vision_model.head"}[role]
    changes = {
        "missing": lambda s: s.pop(some),
        "unexpected": lambda s: s.update({extra: torch.zeros(2)}),
        "another shape": lambda s: s.update({some: torch.zeros(3, 5)}),
    }
    for said, act in changes.items():
        odd = rewritten(folders[role], tmp_path / said.replace(" ", "-"), role, lambda s, act=act: on(s, act))
        with pytest.raises(UsageError, match=rf"[1-9]\d* (keys )?(of )?{said}"):
            extractors.load(f"{role}@{odd}")
    same = rewritten(folders[role], tmp_path / "same", role, lambda s: s)
    crops = tiny.pictures(1)
    expected = scores(extractors.load(f"{role}@{folders[role]}"), crops)
    np.testing.assert_array_equal(scores(extractors.load(f"{role}@{same}"), crops), expected)


def test_a_reward_file_with_foreign_parts_or_a_broken_head_is_refused(folders, tmp_path):
    foreign = rewritten(folders["reward"], tmp_path / "a", "reward", lambda s: {**s, "queue": torch.zeros(2)})
    with pytest.raises(UsageError, match=r"not an ImageReward checkpoint.*queue"):
        extractors.load(f"reward@{foreign}")
    for n in ("0", "4", "7"):
        cut = {f"mlp.layers.{n}.weight", f"mlp.layers.{n}.bias"}
        odd = rewritten(
            folders["reward"], tmp_path / n, "reward", lambda s, cut=cut: {k: v for k, v in s.items() if k not in cut}
        )
        with pytest.raises(UsageError, match="not a score head on 32 features"):
            extractors.load(f"reward@{odd}")


@pytest.mark.parametrize("role", ["hps", "reward"])
def test_files_that_are_no_state_dict_or_run_code_are_refused(role, folders, tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    for i, odd in enumerate(([torch.zeros(2)], {"a": 1})):
        copy = rewritten(folders[role], tmp_path / str(i), role, lambda s, odd=odd: odd)
        with pytest.raises(UsageError, match="no state dict"):
            extractors.load(f"{role}@{copy}")
    evil = shutil.copytree(folders[role], tmp_path / "evil")
    torch.save({"state_dict": {"visual.proj": Evil()}}, evil / WEIGHTS[role])
    with pytest.raises(pickle.UnpicklingError):
        extractors.load(f"{role}@{evil}")
    assert not (tmp_path / "ran").exists()


def test_a_folder_with_two_hps_versions_is_refused_and_a_partial_one_says_what_it_lacks(tmp_path):
    MAKERS["hps"](tmp_path)
    MAKERS["hps"](tmp_path, file="HPS_v2_compressed.pt")
    with pytest.raises(UsageError, match=r"HPS_v2\.1_compressed\.pt, HPS_v2_compressed\.pt"):
        extractors.find(f"hps@{tmp_path}")
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(UsageError, match=r"lacks open_clip_config\.json"):
        extractors.find(f"hps@{tmp_path}")


@pytest.mark.parametrize("role", MAKERS)
def test_the_identity_follows_the_weights_and_not_the_place(role, folders, tmp_path):
    here = extractors.find(f"{role}@{folders[role]}").digest
    assert extractors.find(f"{role}@{MAKERS[role](tmp_path / 'same')}").digest == here
    assert extractors.find(f"{role}@{MAKERS[role](tmp_path / 'other', seed=1)}").digest != here


def test_named_scorers_load_from_the_caches_and_every_file_is_part_of_their_identity(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for model in extractors.models("image-reward"):
        for file in model.files:
            with pytest.raises(PrerequisiteError, match=r"scrollbench weights fetch .*" + model.name):
                extractors.find("image-reward")
            put = snapshot(model.repository) / file
            put.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folders["reward"] / file, put) if (folders["reward"] / file).exists() else put.write_text("{}")
    put = put.with_name("vocab.txt")
    first = extractors.find("image-reward")
    crops = tiny.pictures(2)
    expected = extractors.load(f"reward@{folders['reward']}").score(crops, "a calm sea")
    np.testing.assert_array_equal(extractors.load("image-reward").score(crops, "a calm sea"), expected)
    put.write_text(put.read_text().replace("\nz\n", "\nzz\n"))  # another vocabulary reads another text
    assert extractors.find("image-reward").digest != first.digest


@pytest.mark.parametrize("name", [n for n, s in extractors.NAMES.items() if s.repo or s.url])
def test_missing_weights_name_the_models_of_the_manifest(name, tmp_path, monkeypatch):
    from bench.weights import load_manifest

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PrerequisiteError) as refused:
        extractors.find(name)
    _, _, command = str(refused.value).rpartition("\n")
    assert command.split()[:3] == ["scrollbench", "weights", "fetch"]
    assert command.split()[3:]
    assert set(command.split()[3:]) <= set(load_manifest())
    assert extractors.card(name)["fetch"] == command.strip()


def test_the_official_file_of_half_precision_is_read_as_single(folders):
    model = extractors.load(f"hps@{folders['hps']}").model
    state = torch.load(folders["hps"] / WEIGHTS["hps"], weights_only=True)["state_dict"]
    assert state["visual.proj"].dtype == torch.float16
    assert torch.equal(model.visual.proj, state["visual.proj"].float())
