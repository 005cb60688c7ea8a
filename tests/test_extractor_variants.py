"""One network, several extractors: what feeds it, how it is pooled, and names that say so."""

import io
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from close import products, rounding

from bench import extractors
from bench.resize import clean_resize
from bench.weights import snapshot

GOLDEN = Path(__file__).parent / "goldens" / "metrics" / "clean_resize.npz"
SIZES = {"small": (24, 40), "square": (512, 512), "wide": (96, 800)}


def fixed_pictures():
    """The pictures whose resized pixels are stored."""
    rng = np.random.default_rng(2022)
    draw = {n: rng.integers(0, 256, (h // 4, w // 4, 3), dtype=np.uint8) for n, (h, w) in SIZES.items()}
    return {n: np.repeat(np.repeat(small, 4, axis=0), 4, axis=1) for n, small in draw.items()}


@pytest.mark.parametrize("name", SIZES)
def test_the_clean_resize_is_clean_fids(name):
    picture = fixed_pictures()[name]
    ours = clean_resize(picture, 299, 299)
    with np.load(GOLDEN) as stored:
        expected = stored[name]
    assert (ours.dtype, ours.shape) == (np.float32, (299, 299, 3))
    assert np.array_equal(ours[::23, ::23], expected)
    from PIL import Image

    through_bytes = np.asarray(Image.fromarray(picture).resize((299, 299), Image.Resampling.BICUBIC))
    bilinear = np.asarray(Image.fromarray(picture).resize((299, 299), Image.Resampling.BILINEAR))
    assert np.abs(through_bytes[::23, ::23] - expected).max() > 0.1
    assert np.abs(bilinear[::23, ::23] - expected).max() > 1


def off(found, expected):
    """The largest difference, relative to the largest number: a random network's features may be tiny."""
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.fixture(scope="module")
def inceptions(tmp_path_factory):
    """Both Inception extractors on one random network of the real architecture."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    home = tmp_path_factory.mktemp("torch")
    path = home / "hub" / "checkpoints" / extractors.NAMES["inception"].file
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    empty = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.save({}, empty)
        empty.seek(0)
        drawn = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=empty)
    torch.save(drawn.state_dict(), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        return {name: extractors.load(name) for name in ("inception", "inception-clean")}


def test_the_two_resizes_of_inception_are_two_extractors_of_one_network(inceptions):
    plain, clean = inceptions["inception"], inceptions["inception-clean"]
    assert plain.digest != clean.digest
    fitting, other = tiny.pictures(1, 299, 299), tiny.pictures(1, 128, 96)
    same, changed = (off(clean.embed(c), plain.embed(c)) for c in (fitting, other))
    assert same < rounding(1, products(plain.model))  # nothing to resize: the same numbers by both ways
    assert changed > 1e-2


def test_logits_of_inception_are_those_of_its_own_pass_without_the_bias(inceptions, monkeypatch):
    net, crops = inceptions["inception"], tiny.pictures(2, 299, 299)
    features = net.embed(crops)
    monkeypatch.setattr(net.model, "features_list", ["logits_unbiased"])
    own = np.concatenate([net.model(torch.from_numpy(c).permute(2, 0, 1)[None])[0].numpy() for c in crops])
    assert off(net.logits(features), own) < rounding(1, products(net.model))
    assert off(net.logits(features[::-1]), own) > 1e-3


def test_inception_takes_crops_of_several_sizes_in_any_order(inceptions):
    crops = [*tiny.pictures(1, 64, 64), *tiny.pictures(1, 320, 48)]
    for net in inceptions.values():
        both = net.embed(crops)
        assert both.shape == (2, 2048)
        assert off(net.embed(crops[::-1])[::-1], both) < rounding(1, products(net.model))
        assert off(net.embed(crops[::-1]), both) > 1e-2


@pytest.fixture(scope="module")
def dinos(tmp_path_factory):
    """DINOv2 extractors on one random ViT-S/14 of the real architecture."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=0).eval()
    home = tmp_path_factory.mktemp("hub")
    names = ("dinov2-vits14", "dinov2-vits14-cls-224", "dinov2-vits14-mean-224", "dinov2-vits14-mean-518")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home))
        folder = snapshot("timm/vit_small_patch14_dinov2.lvd142m")
        folder.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
        return model, {name: extractors.load(name) for name in names}


def test_dino_variants_pool_and_resize_as_their_names_say(dinos):
    model, nets = dinos
    crop = tiny.pictures(1, 518, 518)[0]
    mean, std = (np.array(model.pretrained_cfg[k]) for k in ("mean", "std"))
    x = torch.from_numpy(((crop / 255 - mean) / std).astype(np.float32)).permute(2, 0, 1)[None]
    with torch.no_grad():
        tokens = model.forward_features(x)
    assert tokens.shape[1] == 1 + 37 * 37
    found = {name: net.embed([crop])[0] for name, net in nets.items()}
    by_hand, with_cls = tokens[0, 1:].mean(0).numpy(), tokens[0].mean(0).numpy()
    close = rounding(np.abs(by_hand).max(), products(model))
    np.testing.assert_allclose(found["dinov2-vits14-mean-518"], by_hand, rtol=0, atol=close)
    assert np.abs(found["dinov2-vits14-mean-518"] - with_cls).max() > 2 * close
    assert np.array_equal(found["dinov2-vits14"], found["dinov2-vits14-cls-224"])
    assert np.abs(found["dinov2-vits14-mean-224"] - found["dinov2-vits14"]).max() > 1e-2


def test_a_variants_identity_is_its_own_and_the_default_has_two_names(dinos):
    digests = {name: net.digest for name, net in dinos[1].items()}
    assert digests["dinov2-vits14"] == digests["dinov2-vits14-cls-224"]
    assert len(set(digests.values())) == 3
    for letter in "sbl":
        for pool in ("cls", "mean"):
            for size in (224, 518):
                assert extractors.role(f"dinov2-vit{letter}14-{pool}-{size}") == "dino"


def test_lpips_at_512_px_is_lpips_of_resized_crops(tmp_path, monkeypatch):
    import torchvision

    from bench.networks import resized

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(1)
    path = tmp_path / "hub" / "checkpoints" / extractors.NAMES["lpips-alex"].file
    path.parent.mkdir(parents=True)
    features = torchvision.models.alexnet().features
    torch.save({f"features.{k}": v for k, v in features.state_dict().items()}, path)
    plain, fixed = extractors.load("lpips-alex"), extractors.load("lpips-alex-512")
    assert plain.digest != fixed.digest
    crops = tiny.pictures(2, 640, 320)
    by_hand = plain.distances([resized(c, 512, 512) for c in crops])
    close = rounding(1, products(fixed.model))
    np.testing.assert_allclose(fixed.distances(crops), by_hand, rtol=0, atol=close)
    assert abs(plain.distances(crops)[0, 1] - by_hand[0, 1]) > 2 * close


def test_pair_distances_do_not_depend_on_the_size_of_blocks(tmp_path, monkeypatch):
    net = extractors.load(f"lpips@{tiny.lpips(tmp_path / 'net')}")
    crops = tiny.pictures(7)
    whole = net.distances(crops)
    for pixels in (1, 2 * 32 * 32, 3 * 32 * 32):
        monkeypatch.setattr("bench.networks_lpips.PIXELS", pixels)
        np.testing.assert_allclose(net.distances(crops), whole, rtol=1e-5, atol=1e-7)
    assert np.abs(net.distances(crops[::-1]) - whole).max() > 1e-4  # another order is another matrix
    np.testing.assert_allclose(net.distances(crops[::-1])[::-1, ::-1], whole, rtol=1e-5, atol=1e-7)


def test_both_clips_of_the_papers_are_extractors_and_the_score_is_better_higher():
    from bench.metrics.alignment import clip_score

    both = [extractors.NAMES[name] for name in ("clip-vit-b-16", "clip-vit-l-14")]
    assert [spec.role for spec in both] == [clip_score.extractor] * 2
    assert len({(spec.model, spec.repo) for spec in both}) == 2
    assert set(clip_score.values.values()) == {"higher"}


def test_the_miniatures_style_network_is_its_lpips_trunk_with_an_identity_of_its_own():
    style, lpips = extractors.find("world-style"), extractors.find("world-lpips")
    assert (style.role, style.path) == ("style", lpips.path)
    assert style.digest != lpips.digest
    assert extractors.card("world-style")["present"]
    distances = extractors.load("world-style").distances(tiny.pictures(3))
    assert (distances[np.triu_indices(3, 1)] > 0).all()
