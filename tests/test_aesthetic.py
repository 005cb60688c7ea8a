"""Aesthetic heads and CLIP-IQA: both head layouts load or are refused, numbers follow by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import tiny_scorers
import torch
from close import products, rounding

from bench import extractors
from bench.errors import UsageError
from bench.metrics import CLIPIQA, Aesthetic
from bench.metrics.aesthetic import clip_aesthetic, clip_iqa, iqa_probability
from bench.networks_reward import centre_square
from bench.registry import find, names
from bench.sample import Sample
from bench.types import Canvas, Prompt


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    root = tmp_path_factory.mktemp("scorers")
    made = {
        "v1": f"aesthetic@{tiny_scorers.aesthetic(root / 'v1', head='v1')}",
        "v2": f"aesthetic@{tiny_scorers.aesthetic(root / 'v2')}",
        "clip": f"clip@{tiny.clip(root / 'clip')}",
        "iqa": f"iqa@{tiny_scorers.iqa(root / 'iqa', seed=3)}",
        "resnet": f"clip@{root / 'iqa'}",
    }
    return {name: extractors.load(ref) for name, ref in made.items()}


def measured(metric, net, rgb, view="tiles"):
    canvas = Canvas(rgb.shape[1], rgb.shape[0])
    return metric.fn(Sample(rgb, Prompt("p", "a calm sea"), canvas, extractor=net, view=view))


def whole(values):
    return {v.name: v.value for v in values if v.index is None}


def scroll(n=4, seed=0):
    return np.concatenate(tiny.pictures(n, 64, 64, seed), axis=1)


def rating_near(net, expected):
    """Ratings by another route: a unit feature times weights of length 5 at most (16 normal ones), or as little."""
    return pytest.approx(expected, rel=0, abs=rounding(5, products(net.model, net.head)))


def iqa_near(net, expected):
    """Probabilities by another route: their slope is at most 1/4 of 100 times a difference of two cosines."""
    return pytest.approx(expected, rel=0, abs=rounding(2 * 100 / 4, products(net.model)))


@pytest.mark.parametrize("head", ["v1", "v2"])
def test_a_rating_is_the_linear_map_of_clips_unit_feature(head, nets, tmp_path):
    net, crops = nets[head], tiny.pictures(3)
    folder = tiny_scorers.aesthetic(tmp_path, head=head)
    state = torch.load(folder / "head.pth", weights_only=True)
    x = torch.from_numpy(nets["clip"].embed(crops))  # the same trunk as an extractor of its own
    assert torch.allclose(x.norm(dim=1), torch.ones(3), rtol=0, atol=rounding(1, 2 * 16))
    if head == "v1":
        x = x @ state["weight"].T + state["bias"]
    else:
        for n in (0, 2, 4, 6, 7):
            x = x @ state[f"layers.{n}.weight"].T + state[f"layers.{n}.bias"]
    rated = net.rate(net.embed(crops))
    assert rated.dtype == np.float32
    assert rated == rating_near(net, x[:, 0].numpy())
    assert np.abs(net.rate(2 * net.embed(crops)) - rated).max() > 1e-3  # features of another length rate otherwise


def test_heads_of_both_versions_differ_in_identity_and_number(nets):
    crops = tiny.pictures(2)
    assert nets["v1"].digest != nets["v2"].digest
    assert np.abs(nets["v1"].rate(nets["v1"].embed(crops)) - nets["v2"].rate(nets["v2"].embed(crops))).max() > 1e-3


@pytest.mark.parametrize(
    "odd",
    [
        {"weight": torch.zeros(1, 16)},
        {"weight": torch.zeros(1, 16), "bias": torch.zeros(1), "scale": torch.zeros(1)},
        {"weight": torch.zeros(1, 8), "bias": torch.zeros(1)},
        {"weight": torch.zeros(2, 16), "bias": torch.zeros(2)},
        {"layers.0.weight": torch.zeros(4, 16), "layers.0.bias": torch.zeros(4)},
        {"layers.0.weight": torch.zeros(4, 16), "layers.2.weight": torch.zeros(1, 5)},
        {},
    ],
    ids=["no bias", "extra", "other width", "two numbers", "no end", "gap", "empty"],
)
def test_a_head_of_another_shape_is_refused(odd, tmp_path):
    folder = tiny_scorers.aesthetic(tmp_path)
    torch.save(odd, folder / "head.pth")
    with pytest.raises(UsageError, match="head"):
        extractors.load(f"aesthetic@{folder}")


@pytest.mark.parametrize("head", ["v1", "v2"])
def test_ratings_of_tiles_and_of_the_stock_view(head, nets):
    net, rgb = nets[head], scroll(3)
    values = measured(clip_aesthetic, net, rgb)
    alone = [float(net.rate(net.embed([tile]))[0]) for tile in np.split(rgb, 3, axis=1)]
    assert [v.value for v in values if v.index is not None] == rating_near(net, alone)
    assert whole(values) == rating_near(net, {"clip-aesthetic": np.mean(alone), "clip-aesthetic-worst": min(alone)})
    stock = whole(measured(clip_aesthetic, net, rgb, view="centre"))["clip-aesthetic"]
    by_hand = net.rate(nets["clip"].embed([centre_square(rgb, 32)]))[0]
    assert stock == rating_near(net, float(by_hand))
    squashed = whole(measured(clip_aesthetic, net, rgb, view="squash"))["clip-aesthetic"]
    assert squashed != rating_near(net, float(by_hand))


def test_iqa_is_the_softmax_of_a_hundred_cosines_and_symmetric():
    good, bad = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    at = np.array([[1.0, 1.0], [1.0, 0.99], [0.0, 3.0]])
    found = iqa_probability(at, good, bad)
    cosines = at / np.linalg.norm(at, axis=1, keepdims=True)
    by_hand = np.exp(100 * cosines[:, 0]) / (np.exp(100 * cosines[:, 0]) + np.exp(100 * cosines[:, 1]))
    np.testing.assert_allclose(found, by_hand, rtol=0, atol=1e-12)
    np.testing.assert_allclose(iqa_probability(at, bad, good), 1 - found, rtol=0, atol=1e-12)
    assert found[0] == 0.5
    assert abs(1 / (1 + np.exp(cosines[1, 1] - cosines[1, 0])) - found[1]) > 0.1  # without the factor 100


def test_iqa_equals_torchmetrics_on_the_same_features():
    from torchmetrics.functional.multimodal import clip_iqa as theirs

    rng = np.random.default_rng(0)
    rows, anchors = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 6, 8)))
    expected = theirs._clip_iqa_compute(torch.from_numpy(rows), torch.from_numpy(anchors[:2]), ["quality"])
    np.testing.assert_allclose(iqa_probability(rows, *anchors[:2]), expected.numpy(), rtol=0, atol=1e-9)


def test_the_iqa_network_has_no_position_and_takes_any_size(nets):
    net, stock = nets["iqa"], nets["resnet"]
    crop = tiny.pictures(1, 128, 64)[0]
    x = torch.from_numpy(crop).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        h = x
        visual = stock.model.visual
        for layer in (visual.stem, visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            h = layer(h)
        pool = visual.attnpool
        tokens = h.flatten(2).permute(2, 0, 1)
        tokens = torch.cat([tokens.mean(0, keepdim=True), tokens])
        parts = (pool.q_proj, pool.k_proj, pool.v_proj)
        q, k, v = (p(tokens).unflatten(-1, (pool.num_heads, -1)).permute(1, 2, 0, 3) for p in parts)
        mixed = torch.nn.functional.scaled_dot_product_attention(q[:, :, :1], k, v)
        by_hand = torch.nn.functional.normalize(pool.c_proj(mixed.flatten(1)), dim=-1)
    np.testing.assert_allclose(net.embed([crop]), by_hand.numpy(), rtol=0, atol=rounding(1, products(net.model)))
    square = tiny.pictures(1, 64, 64)
    assert np.abs(net.embed(square) - stock.embed(square)).max() > 1e-4  # with its position it is another network
    assert net.embed([np.zeros((5, 9, 3), np.uint8)]).shape == (1, 16)


def test_crops_of_different_sizes_are_judged_one_by_one(nets):
    crops = [*tiny.pictures(2, 64, 64), *tiny.pictures(1, 96, 64)]
    together = nets["iqa"].embed(crops)
    alone = np.concatenate([nets["iqa"].embed([c]) for c in crops])
    np.testing.assert_allclose(together, alone, rtol=0, atol=rounding(1, products(nets["iqa"].model)))


def test_iqa_of_tiles_is_the_mean_probability_of_a_good_photo(nets):
    net, rgb = nets["iqa"], scroll(3)
    good, bad = net.embed_text(["Good photo.", "Bad photo."])
    alone = [float(iqa_probability(net.embed([tile]), good, bad)[0]) for tile in np.split(rgb, 3, axis=1)]
    values = measured(clip_iqa, net, rgb)
    assert whole(values) == iqa_near(net, {"clip-iqa": np.mean(alone), "clip-iqa-worst": min(alone)})
    stock = whole(measured(clip_iqa, net, rgb, view="whole"))["clip-iqa"]
    assert stock == iqa_near(net, float(iqa_probability(net.embed([rgb]), good, bad)[0]))
    assert stock != iqa_near(net, float(np.mean(alone)))


def test_a_clip_with_a_vision_transformer_is_no_iqa_network(tmp_path):
    with pytest.raises(UsageError, match="ResNet"):
        extractors.load(f"iqa@{tiny.clip(tmp_path)}")


def test_the_classes_average_and_need_their_role(nets):
    pictures = [scroll(2, seed=1), scroll(2, seed=2)]
    for cls, metric, net in ((Aesthetic, clip_aesthetic, "v2"), (CLIPIQA, clip_iqa, "iqa")):
        score = cls(nets[net])
        score.update(pictures)
        expected = float(np.mean([whole(measured(metric, nets[net], p))[metric.name] for p in pictures]))
        near = rating_near if net == "v2" else iqa_near
        assert float(score.compute()) == near(nets[net], expected)
        with pytest.raises(UsageError, match="role"):
            cls(nets["clip"])
        assert find("metrics", metric.name).name in names("metrics")
