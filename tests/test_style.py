"""Intra-Style-L equals the released script's number, a calculation by hand, and torchvision's VGG-19 layer by layer."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from close import relative
from torch import nn

from bench import extractors
from bench.errors import UsageError
from bench.metrics import StyleL, StyleLSum
from bench.metrics.style import intra_style
from bench.networks_style import style_distances, vgg19_stages
from bench.sample import Sample
from bench.types import Canvas, Prompt

GOLDEN = Path(__file__).parent / "goldens" / "metrics" / "style_blocks.npz"
RELEASED = 2.199217308128984e-06  # eval_style_loss.py on the picture below with the network below, in float64
WEIGHTS = "419e5d318ea964be425680ee76552963bc64fe899bf5534bd7a50692c5d130ff"


@pytest.fixture(scope="module")
def network():
    """Five convolutions in the layout of VGG-19's features, drawn from a seed; float64."""
    g, digest = torch.Generator().manual_seed(19), hashlib.sha256()
    features = nn.Sequential()
    for before, after, pool in ((3, 64, 0), (64, 64, 1), (64, 128, 0), (128, 128, 1), (128, 256, 0)):
        conv = nn.Conv2d(before, after, 3, padding=1)
        conv.weight.data = torch.randn(after, before, 3, 3, generator=g) * (2 / (9 * before)) ** 0.5
        conv.bias.data = 0.1 * torch.randn(after, generator=g)
        for part in (conv.weight, conv.bias):
            digest.update(part.data.numpy().tobytes())
        features.extend([conv, nn.ReLU(inplace=True), *([nn.MaxPool2d(2)] if pool else [])])
    assert digest.hexdigest() == WEIGHTS
    return features.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def crops():
    with np.load(GOLDEN) as data:
        picture = np.repeat(np.repeat(data["blocks"], 8, axis=0), 8, axis=1)
    return [picture[:, :512], picture[:, 512:]]


def test_the_distance_of_a_pair_is_the_released_scripts(network, crops):
    found = style_distances(vgg19_stages(network), crops, torch.float64)
    # Sums of up to 2^18 products in float64 are off by 1e-13 of themselves; differences of like Gram matrices by more.
    assert float(found[0, 1]) == relative(RELEASED, 1e-10)
    assert torch.equal(found, found.T)
    assert not found.diagonal().any()
    behind_relu = [nn.Sequential(s, nn.ReLU()) for s in vgg19_stages(network)]
    control = style_distances(behind_relu, [c[:64, :64] for c in crops], torch.float64)
    assert float(control[0, 1]) != relative(
        float(style_distances(vgg19_stages(network), [c[:64, :64] for c in crops], torch.float64)[0, 1]), 1e-3
    )


def test_single_precision_changes_the_distance_by_a_rounding(network, crops):
    small = [c[:64, :64] for c in crops]
    exact = float(style_distances(vgg19_stages(network), small, torch.float64)[0, 1])
    single = [s.float() for s in vgg19_stages(network)]
    try:
        assert float(style_distances(single, small, torch.float32)[0, 1]) == relative(exact, 1e-4)
    finally:
        network.double()


def by_hand(stages, pictures, scale):
    """The distance of two pictures, summed over layers; ``scale`` brings bytes to [0, 1]."""
    layers = []
    for picture in pictures:
        h = torch.from_numpy((scale(picture) - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]))
        first = stages[0](h.permute(2, 0, 1)[None])
        layers.append([first.detach().numpy()[0], stages[1](first).detach().numpy()[0]])
    total = 0.0
    for f, g in zip(*layers):
        c, h, w = f.shape
        grams = [np.einsum("ihw,jhw->ij", x, x) / (c * h * w) for x in (f, g)]
        total += np.mean((grams[0] - grams[1]) ** 2)
    return total


def test_the_distance_is_the_sum_over_layers_by_hand_of_pixels_that_were_float32_once():
    torch.manual_seed(0)
    stages = [nn.Conv2d(3, 4, 3).double(), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 5, 3)).double()]
    pair = tiny.pictures(2, 12, 10)
    expected = by_hand(stages, pair, lambda rgb: (rgb.astype(np.float32) / np.float32(255)).astype(np.float64))
    with torch.no_grad():
        found = float(style_distances(stages, pair, torch.float64)[0, 1])
    assert found == relative(expected, 1e-12)
    assert found != relative(2 * expected, 1e-3)
    assert found != relative(by_hand(stages, pair, lambda rgb: rgb / 255), 1e-10)  # widened before they are divided


@pytest.fixture(scope="module")
def tiny_style(tmp_path_factory):
    return extractors.load(f"style@{tiny.lpips(tmp_path_factory.mktemp('weights') / 'tiny-style')}")


def test_both_values_come_of_the_same_pairs(tiny_style):
    rgb = np.concatenate(tiny.pictures(6), axis=1)
    sample = Sample(rgb, Prompt("p", ""), Canvas(192, 32), extractor=tiny_style, view="tiles")
    values = {v.name: v.value for v in intra_style.fn(sample)}
    pairs = tiny_style.distances(np.split(rgb, 6, axis=1))[np.triu_indices(6, 1)]
    assert len(pairs) == 15
    assert values["intra-style"] == relative(float(pairs.astype(float).mean()), 1e-12)
    assert values["intra-style-sum"] == relative(15 * values["intra-style"], 1e-12)
    mean, total = StyleL(tiny_style), StyleLSum(tiny_style)
    for metric in (mean, total):
        metric.update([rgb])
    assert float(mean.compute()) == values["intra-style"]
    assert float(total.compute()) == values["intra-style-sum"]


def test_one_style_repeated_is_nothing_and_two_are_something(tiny_style):
    a, b = tiny.pictures(2)
    distances = tiny_style.distances([a, b, a])
    assert distances[0, 2] == 0
    assert distances[0, 1] > 1e-6
    order = tiny_style.distances([b, a, a])
    assert order[0, 1] == relative(float(distances[0, 1]), 1e-5)


def test_named_style_reads_torchvisions_vgg19_at_512_px(tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(3)
    full = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["E"])
    path = tmp_path / "hub" / "checkpoints" / extractors.NAMES["vgg19-style"].file
    path.parent.mkdir(parents=True)
    torch.save({f"features.{k}": v for k, v in full.state_dict().items()}, path)
    net = extractors.load("vgg19-style")
    assert [s[-1].out_channels for s in net.stages] == [64, 64, 128, 128, 256]
    monkeypatch.setattr(net, "size", 48)  # the real side takes a while on a CPU
    crops = tiny.pictures(2, 48, 48)
    ours = net.distances(crops)[0, 1]
    theirs = style_distances(vgg19_stages(full.double().requires_grad_(False)), crops, torch.float64)[0, 1]
    assert ours == relative(float(theirs), 1e-4)
    assert net.distances(tiny.pictures(2, 96, 96)).shape == (2, 2)
    torch.save({"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match="not torchvision's VGG-19"):
        extractors.load("vgg19-style")


def test_crops_of_different_sizes_are_refused_where_the_network_takes_them_as_they_are(tiny_style):
    with pytest.raises(UsageError, match="one size"):
        tiny_style.distances([*tiny.pictures(1), *tiny.pictures(1, 40, 32)])
