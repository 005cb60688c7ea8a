"""Extractors: the same loaders for real and tiny weights, identities that follow the weights, stable numbers."""

import pickle

import numpy as np
import pytest
import tiny
import torch
from close import near, products, rounding

from bench import extractors
from bench.errors import PrerequisiteError, UsageError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    made = {"dino": tiny.vit, "inception": tiny.cnn, "clip": tiny.clip, "lpips": tiny.lpips}
    return {role: make(root / f"tiny-{role}") for role, make in made.items()}


@pytest.fixture(scope="module")
def loaded(folders):
    return {role: extractors.load(f"{role}@{folder}") for role, folder in folders.items()}


@pytest.mark.parametrize("role", ["dino", "inception", "clip"])
def test_features_do_not_depend_on_batch_or_order(loaded, role):
    crops = tiny.pictures(40)
    together = loaded[role].embed(crops)
    assert together.shape == (40, loaded[role].dim)
    assert together.dtype == np.float32
    alone = np.concatenate([loaded[role].embed([c]) for c in crops])
    backwards = loaded[role].embed(crops[::-1])[::-1]
    close = rounding(np.abs(together).max(), products(loaded[role].model))
    np.testing.assert_allclose(together, alone, rtol=0, atol=close)
    np.testing.assert_allclose(together, backwards, rtol=0, atol=close)
    assert np.abs(together[0] - together[1]).max() > 5 * close


def test_vit_features_are_the_models_own_pooled_output(loaded):
    crop = tiny.pictures(1)[0]
    net = loaded["dino"]
    mean, std = net.model.pretrained_cfg["mean"], net.model.pretrained_cfg["std"]
    x = ((crop / 255 - np.array(mean)) / np.array(std)).astype(np.float32)
    x = torch.from_numpy(x).permute(2, 0, 1)[None]
    with torch.no_grad():
        own, unscaled = net.model(x)[0].numpy(), net.model(x * 0.98)[0].numpy()
    close = rounding(np.abs(own).max(), products(net.model))
    np.testing.assert_allclose(net.embed([crop])[0], own, rtol=0, atol=close)
    assert np.abs(net.embed([crop])[0] - unscaled).max() > 5 * close


def test_classifier_logits_follow_from_its_pooled_features(loaded):
    net, crops = loaded["inception"], tiny.pictures(3)
    with torch.no_grad():
        whole = net.model(net._input(crops)).numpy()
    close = rounding(np.abs(whole).max(), products(net.model))
    np.testing.assert_allclose(net.logits(net.embed(crops)), whole, rtol=0, atol=close)
    assert np.abs(net.logits(net.embed(crops[::-1])) - whole).max() > 1e-2


def test_clip_features_have_unit_length_and_texts_differ(loaded):
    text = loaded["clip"].embed_text(["a calm sea at dawn", "three houses"])
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, rtol=0, atol=rounding(1, 2 * 16))
    assert np.abs(text[0] - text[1]).max() > 1e-3


def test_texts_too_long_for_clip_are_told(loaded):
    assert loaded["clip"].truncated(["a sea", "sea " * 75, "sea " * 76]) == [False, False, True]


def test_pair_distances_equal_the_lpips_package_on_the_same_trunk(loaded, folders):
    import lpips
    from safetensors.torch import load_file

    reference = lpips.LPIPS(net="squeeze", lpips=False, pnet_rand=True, verbose=False)
    crops = tiny.pictures(4)
    ours = loaded["lpips"].distances(crops)
    x = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 127.5 - 1

    def theirs(i, j):
        with torch.no_grad():
            return float(reference(x[i : i + 1], x[j : j + 1]))

    def same(expected):  # squared differences of unit features, twice as uncertain as these
        return near(expected, products(reference), size=2 * max(1, expected))

    assert ours[0, 1] != same(theirs(0, 1))  # another random trunk gives other numbers
    reference.load_state_dict(load_file(folders["lpips"] / "model.safetensors"))
    for i in range(4):
        assert ours[i, i] == 0
        for j in range(i):
            assert ours[i, j] == same(theirs(i, j))
            assert ours[i, j] == ours[j, i]


@pytest.mark.parametrize("net", ["squeeze", "alex"])
def test_named_lpips_reads_torchvisions_trunk_and_the_learned_heads(net, tmp_path, monkeypatch):
    import lpips
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(1)
    trunk = {"squeeze": torchvision.models.squeezenet1_1, "alex": torchvision.models.alexnet}[net]()
    if net == "alex":  # keep the classifier out of the file: only the features are read
        trunk.classifier = torch.nn.Identity()
    path = tmp_path / "hub" / "checkpoints" / extractors.NAMES[f"lpips-{net}"].file
    path.parent.mkdir(parents=True)
    torch.save(trunk.state_dict(), path)
    crops = tiny.pictures(2, 64, 64)
    ours = extractors.load(f"lpips-{net}").distances(crops)[0, 1]
    reference = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    slices = {k: trunk.state_dict()["features." + k.partition(".")[2]] for k in reference.net.state_dict()}
    reference.net.load_state_dict(slices)
    x = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        assert ours == near(float(reference(x[:1], x[1:])), products(reference), size=1)
        reference.lins[0].model[1].weight.data *= 2
        assert ours != near(float(reference(x[:1], x[1:])), products(reference), size=1)


def test_pickled_weights_that_run_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    path = tmp_path / "hub" / "checkpoints" / extractors.NAMES["inception"].file
    path.parent.mkdir(parents=True)
    torch.save({"fc.weight": Evil()}, path)
    with pytest.raises(pickle.UnpicklingError):
        extractors.load("inception")
    assert not (tmp_path / "ran").exists()


def test_the_identity_follows_the_weights_and_the_role_not_the_place(folders, tmp_path):
    here = extractors.find(f"dino@{folders['dino']}")
    same = extractors.find(f"dino@{tiny.vit(tmp_path / 'elsewhere')}")
    other = extractors.find(f"dino@{tiny.vit(tmp_path / 'other', seed=1)}")
    as_inception = extractors.find(f"inception@{folders['dino']}")
    assert here.digest == same.digest
    assert len({here.digest, other.digest, as_inception.digest}) == 3


@pytest.mark.parametrize("name", ["dinov2-vitb14", "clip-vit-b-16", "inception", "lpips-vgg"])
def test_missing_weights_are_answered_with_the_command_that_fetches_them(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PrerequisiteError, match=f"scrollbench weights fetch {name}"):
        extractors.find(name)
    assert extractors.card(name)["present"] is False


def test_unknown_names_and_wrong_folders_say_what_was_expected(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'dinov2-vitb14'"):
        extractors.find("dinov2-vitb")
    with pytest.raises(UsageError, match=r"model\.safetensors"):
        extractors.find(f"dino@{tmp_path}")


def test_a_role_refuses_what_it_cannot_do(loaded):
    with pytest.raises(UsageError, match="cannot compare pairs"):
        loaded["dino"].distances(tiny.pictures(2))
    with pytest.raises(UsageError, match="cannot embed text"):
        loaded["inception"].embed_text(["sea"])
    with pytest.raises(UsageError, match="one size"):
        loaded["lpips"].distances([*tiny.pictures(1), *tiny.pictures(1, 40, 32)])


def test_loading_leaves_the_global_random_state_alone(folders):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    extractors.load(f"lpips@{folders['lpips']}")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("tier", ["miniature", "full"])
def test_every_role_has_a_default_extractor_of_that_role(tier):
    for role in extractors.ROLES:
        assert extractors.role(extractors.default(role, tier)) == role
