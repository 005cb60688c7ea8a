"""Preference scorers: stock views are exact, scores follow by hand, and so do the numbers papers derive."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from close import near, products, rounding
from small import SUITE, write_suite
from tiny_scorers import MAKERS, scores

from bench import extractors
from bench.errors import UsageError
from bench.metrics import HPS, ImageReward, PickScore
from bench.metrics.preference import average_rank, hps, image_reward, pick_score, softmax_share
from bench.networks_hps import letterboxed
from bench.networks_reward import REWARD_MEAN, REWARD_STD, centre_square
from bench.plan import make_plan
from bench.registry import find, names
from bench.run import generate
from bench.sample import Sample
from bench.score import score
from bench.store import Store
from bench.suite import load_suite
from bench.types import Canvas, Prompt

METRICS = {"hps": hps, "reward": image_reward, "pick": pick_score}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("scorers")
    return {role: make(root / role) for role, make in MAKERS.items()}


@pytest.fixture(scope="module")
def nets(folders):
    return {role: extractors.load(f"{role}@{folder}") for role, folder in folders.items()}


def measured(role, nets, rgb, text="a calm sea", view="tiles"):
    canvas = Canvas(rgb.shape[1], rgb.shape[0])
    return METRICS[role].fn(Sample(rgb, Prompt("p", text), canvas, extractor=nets[role], view=view))


def whole(values):
    return {v.name: v.value for v in values if v.index is None}


def scroll(n=4, seed=0):
    return np.concatenate(tiny.pictures(n, 64, 64, seed), axis=1)


def tolerance(net, size=None):
    """Of a score by another route: unit features times the logit scale, or ImageReward's output, of ``size``."""
    return rounding(size or net.scale, products(*(m for m in vars(net).values() if isinstance(m, torch.nn.Module))))


def score_near(net, expected):
    size = np.abs(expected).max() if net.role == "reward" else None
    return pytest.approx(expected, rel=0, abs=tolerance(net, size))


# -- what the networks see


def test_hps_sees_a_letterbox_whose_bars_are_black_before_normalisation():
    rgb = scroll(6)
    boxed = letterboxed(rgb, 48)
    assert boxed.shape == (3, 48, 48)
    assert torch.equal(boxed[:, :20], torch.zeros(3, 20, 48))
    assert torch.equal(boxed[:, 28:], torch.zeros(3, 20, 48))
    assert boxed[:, 20:28].abs().amax(0).min() > 0
    x = torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255
    middle = torch.nn.functional.interpolate(x, (8, 48), mode="bicubic", antialias=True)[0]
    torch.testing.assert_close(boxed[:, 20:28], middle)
    plain = torch.nn.functional.interpolate(x, (8, 48), mode="bicubic")[0]
    assert (plain - middle).abs().max() > 0.01  # without antialiasing it is another picture


def test_letterboxing_does_not_clamp_and_keeps_odd_bars_below():
    edge = np.zeros((30, 90, 3), np.uint8)
    edge[:, 45:] = 255
    boxed = letterboxed(edge, 40)
    assert boxed.max() > 1.001
    assert boxed.min() < -0.001
    rows = boxed.abs().sum((0, 2)).nonzero()[:, 0]
    assert (int(rows[0]), int(rows[-1])) == (13, 25)  # 13 rows of picture, 27 black ones: 13 above, 14 below
    assert letterboxed(np.zeros((1, 400, 3), np.uint8), 40).shape == (3, 40, 40)


def test_centre_scorers_see_the_middle_square_of_the_resized_picture():
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    stock = Compose([Resize(32, InterpolationMode.BICUBIC), CenterCrop(32)])
    for width, height in [(300, 50), (50, 300), (101, 64), (64, 64), (32, 32), (40, 32), (97, 31)]:
        rgb = tiny.pictures(1, width, height)[0]
        np.testing.assert_array_equal(centre_square(rgb, 32), np.asarray(stock(Image.fromarray(rgb))))
    odd = tiny.pictures(1, 35, 32)[0]  # 1.5 px to spare: torchvision cuts 2 px off the left, transformers 1
    np.testing.assert_array_equal(centre_square(odd, 32), odd[:, 2:34])
    np.testing.assert_array_equal(centre_square(odd, 32, floor=True), odd[:, 1:33])


@pytest.mark.parametrize("role", MAKERS)
def test_the_stock_view_is_the_official_preprocessing_of_the_whole_picture(role, nets):
    net, rgb = nets[role], scroll()
    stock = whole(measured(role, nets, rgb, view=net.stock))[METRICS[role].name]
    side = net.side
    if role == "hps":
        pixels = ((letterboxed(rgb, side) - net.mean) / net.std)[None]
        with torch.no_grad():
            picture = net.model.encode_image(pixels, normalize=True)[0].numpy()
        by_hand = float(picture @ net.embed_text(["a calm sea"])[0])
    else:
        by_hand = float(scores(net, [centre_square(rgb, side, floor=role == "pick")])[0])
    assert stock == score_near(net, by_hand)
    squashed = whole(measured(role, nets, rgb, view="squash"))[METRICS[role].name]
    assert squashed != score_near(net, by_hand)  # another view of the same picture is another number


@pytest.mark.parametrize("role", MAKERS)
def test_a_square_picture_is_the_same_under_every_view(role, nets):
    rgb = tiny.pictures(1, 64, 64)[0]
    found = [whole(measured(role, nets, rgb, view=v))[METRICS[role].name] for v in ("tiles", nets[role].stock, "whole")]
    assert found == score_near(nets[role], [found[0]] * 3)


# -- the numbers


@pytest.mark.parametrize("role", MAKERS)
def test_tiles_are_scored_one_by_one_and_averaged(role, nets):
    rgb, name = scroll(3), METRICS[role].name
    values = measured(role, nets, rgb)
    alone = [float(scores(nets[role], [tile])[0]) for tile in np.split(rgb, 3, axis=1)]
    assert [v.value for v in values if v.index is not None] == score_near(nets[role], alone)
    assert whole(values)[name] == score_near(nets[role], float(np.mean(alone)))
    assert whole(values)[f"{name}-worst"] == score_near(nets[role], min(alone))
    assert {v.name for v in values} == set(METRICS[role].values)
    other = whole(measured(role, nets, rgb, text="three houses by a road"))[name]
    assert other != score_near(nets[role], whole(values)[name])


@pytest.mark.parametrize("role", MAKERS)
def test_scores_do_not_depend_on_batch_or_order(role, nets):
    crops = tiny.pictures(37, 40, 40)
    together = scores(nets[role], crops)
    assert together.dtype == np.float32
    assert together.shape == (37,)
    close = tolerance(nets[role], np.abs(together).max() if role == "reward" else None)
    np.testing.assert_allclose(together, [scores(nets[role], [c])[0] for c in crops], rtol=0, atol=close)
    np.testing.assert_allclose(together, scores(nets[role], crops[::-1])[::-1], rtol=0, atol=close)
    assert np.ptp(together) > 5 * close


@pytest.mark.parametrize("role", MAKERS)
def test_scorers_run_in_full_precision_on_the_device_they_are_given(role, folders):
    net = extractors.load(f"{role}@{folders[role]}", "cpu")
    modules = [m for m in vars(net).values() if isinstance(m, torch.nn.Module)]
    parameters = [p for m in modules for p in m.parameters()]
    assert {(p.dtype, p.device.type, p.requires_grad) for p in parameters} == {(torch.float32, "cpu", False)}
    assert net.device == "cpu"
    assert not any(m.training for m in modules)


def test_hps_and_pick_score_are_cosines_and_only_pick_score_is_scaled(nets):
    crops = tiny.pictures(3, 28, 28)
    assert nets["hps"].scale == 1
    assert nets["pick"].scale == pytest.approx(float(nets["pick"].model.logit_scale.exp()))
    assert nets["pick"].scale > 2
    for role in ("hps", "pick"):
        for rows in (nets[role].embed(crops), nets[role].embed_text(["a sea", ""])):
            np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=0, atol=rounding(1, 2 * rows.shape[1]))
    ids, pixels = nets["pick"].text(["a calm sea"]), torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        pixels = (pixels - nets["pick"].mean) / nets["pick"].std
        own = nets["pick"].model(input_ids=ids, pixel_values=pixels).logits_per_image[:, 0]
    np.testing.assert_allclose(scores(nets["pick"], crops), own.numpy(), rtol=0, atol=tolerance(nets["pick"]))


def test_image_reward_is_the_standardised_product_of_its_linear_layers(nets, folders):
    net, crop = nets["reward"], tiny.pictures(1, 32, 32)[0]
    caught = []
    hook = net.mlp.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    reward = float(net.score([crop], "a calm sea")[0])
    hook.remove()
    state = torch.load(folders["reward"] / "ImageReward.pt", weights_only=True)
    x = caught[0].clone()
    for n in (0, 2, 4, 6, 7):
        x = x @ state[f"mlp.layers.{n}.weight"].T + state[f"mlp.layers.{n}.bias"]
    assert reward == near((float(x) - REWARD_MEAN) / REWARD_STD, products(net.mlp))
    assert abs(reward - float(x)) > 1e-3  # the raw output is another number


def test_image_reward_reads_the_text_both_ways_and_ignores_the_padding(nets):
    net, crop = nets["reward"], tiny.pictures(1, 32, 32)
    a, b = net.score(crop, "sea at dawn")[0], net.score(crop, "sea at dusk")[0]
    assert float(a) != score_near(net, float(b))  # the first token sees later ones: the mask is not a decoder's
    net.tokenizer.no_padding()
    unpadded = net.score(crop, "sea at dawn")[0]
    net.tokenizer.enable_padding(length=35)
    assert float(unpadded) == score_near(net, float(a))


def test_the_first_token_is_cls_and_35_tokens_are_read(nets):
    tokenizer = nets["reward"].tokenizer
    encoded = tokenizer.encode("Séa. " * 40)
    assert len(encoded.ids) == 35
    assert [encoded.tokens[0], encoded.tokens[-1]] == ["[CLS]", "[SEP]"]
    assert encoded.tokens[1:4] == ["s", "##e", "##a"]  # lower case, accents off
    assert tokenizer.encode("[ENC]").ids[1] == 109  # BLIP's marks follow BERT's vocabulary: the last two ids


@pytest.mark.parametrize("role", MAKERS)
def test_prompts_longer_than_a_scorer_reads_are_flagged(role, nets):
    longest = 33 if role == "reward" else 75
    assert nets[role].truncated(["a", "a " * longest, "a " * (longest + 1)]) == [False, False, True]
    name = f"{METRICS[role].name}-cut"
    assert whole(measured(role, nets, scroll(2), text="a " * longest))[name] == 0
    assert whole(measured(role, nets, scroll(2), text="a " * (longest + 1)))[name] == 1
    assert METRICS[role].prompted
    same, more, less = (
        float(scores(nets[role], tiny.pictures(1), "a " * n)[0]) for n in (longest + 1, longest + 9, longest - 9)
    )
    assert same == score_near(nets[role], more)  # what lies behind the limit is not read
    assert less != score_near(nets[role], more)


@pytest.mark.parametrize("role", MAKERS)
@pytest.mark.parametrize("shape", [(1, 300), (8, 8), (300, 20)])
def test_degenerate_pictures_get_finite_numbers_under_both_views(role, shape, nets):
    rgb = np.zeros((*shape, 3), np.uint8)
    for view in ("tiles", nets[role].stock):
        assert all(v.value is not None for v in measured(role, nets, rgb, view=view))


def test_the_classes_average_what_the_harness_records(nets):
    pictures, prompts = [scroll(2, seed=1), scroll(2, seed=2)], ["a calm sea", "three houses"]
    for cls, role in ((HPS, "hps"), (ImageReward, "reward"), (PickScore, "pick")):
        score = cls(nets[role], view=nets[role].stock)
        score.update(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), prompts)
        expected = [
            whole(measured(role, nets, rgb, text, nets[role].stock))[METRICS[role].name]
            for rgb, text in zip(pictures, prompts)
        ]
        assert float(score.compute()) == score_near(nets[role], float(np.mean(expected)))
        assert score.higher_is_better
        with pytest.raises(UsageError, match="one text a picture"):
            score.update(pictures, "a calm sea")
        with pytest.raises(UsageError, match=f"role {role}"):
            cls(nets["pick" if role != "pick" else "hps"])


def test_the_metrics_are_registered_and_have_a_real_default_network():
    for name in ("hps", "image-reward", "pick-score"):
        assert name in names("metrics")
        metric = find("metrics", name)
        assert extractors.role(extractors.default(metric.extractor, "full")) == metric.extractor
        assert metric.extractor not in extractors.DEFAULTS["miniature"]  # no stand-in passes for a preference scorer


# -- what papers derive


def test_shares_of_a_group_add_up_to_one_and_change_with_the_company():
    raw = pd.DataFrame({"a": [20.0, 21.0], "b": [21.0, 21.0], "c": [19.0, 24.0]})
    share = softmax_share(raw)
    by_hand = np.mean([np.exp(row) / np.exp(row).sum() for row in raw.to_numpy()], axis=0)
    assert list(share) == pytest.approx(list(by_hand))
    assert share.sum() == pytest.approx(1)
    assert softmax_share(raw[["a", "b"]])["a"] > share["a"]
    assert list(softmax_share(raw + 1000)) == pytest.approx(list(share))  # no overflow
    assert list(softmax_share(raw * 2)) != pytest.approx(list(share))  # the logit scale matters


def test_a_missing_score_leaves_its_prompt_out_of_every_share():
    raw = pd.DataFrame({"a": [20.0, 21.0], "b": [21.0, np.nan]})
    assert list(softmax_share(raw)) == pytest.approx(list(softmax_share(raw.iloc[:1])))
    assert softmax_share(raw.iloc[1:]).isna().all()


DRSPO = """MultiDiffusion 5.616 8 0.226 4 0.070 7 0.224 5 0.317 2 5.2
SDXL 5.921 4 0.190 8 0.076 6 -0.318 8 0.310 4 6.0
FLUX 4.994 10 0.175 10 0.027 9 -1.084 9 0.270 10 9.6
MAD 6.032 1 0.195 7 0.105 1 0.100 6 0.317 2 3.4
SyncDiffusion 5.744 6 0.197 6 0.068 8 -0.087 7 0.310 4 6.2
ElasticDiffusion 5.422 9 0.186 9 0.025 10 -1.351 10 0.273 9 9.4
FLUX+ESRGAN 5.922 3 0.235 2 0.097 2 0.236 4 0.306 8 3.8
SD3.5+ESRGAN 5.759 5 0.221 5 0.092 4 0.258 3 0.309 6 4.6
PixArt 6.016 2 0.236 1 0.092 5 0.397 1 0.308 7 3.2
DRSPO 5.726 7 0.228 3 0.096 3 0.275 2 0.321 1 3.2"""


def test_average_ranks_are_drspos_printed_ones_up_to_one_tie_its_printed_digits_hide():
    rows = [line.split() for line in DRSPO.splitlines()]
    columns = ["aesthetic", "hps", "pick", "reward", "clip"]
    table = pd.DataFrame([[float(v) for v in r[1:11:2]] for r in rows], [r[0] for r in rows], columns)
    printed = pd.DataFrame([[float(v) for v in r[2:11:2]] for r in rows], table.index, columns)
    ranks = average_rank(table, dict.fromkeys(columns, "higher"))
    different = (ranks[columns] != printed).stack()
    assert list(different[different].index) == [("PixArt", "pick")]  # 0.092 twice: printed as 4 and 5
    assert ranks.loc["PixArt", "pick"] == 4
    average = pd.Series([float(r[-1]) for r in rows], table.index)
    assert (ranks["average"] - average).drop("PixArt").abs().max() < 0.05
    wrong = average_rank(table, dict.fromkeys(columns, "lower"))
    assert (wrong["average"] - average).abs().max() > 1


def test_ranks_know_directions_ties_rounding_and_gaps():
    table = pd.DataFrame({"up": [1.0, 1.004, 3.0], "down": [5.0, np.nan, 4.0]}, index=["a", "b", "c"])
    directions = {"up": "higher", "down": "lower"}
    ranks = average_rank(table, directions)
    assert list(ranks["up"]) == [3, 2, 1]
    assert list(average_rank(table, directions, decimals=2)["up"]) == [2, 2, 1]
    assert ranks["down"].tolist()[::2] == [2, 1]
    assert np.isnan(ranks.loc["b", "average"])
    assert ranks.loc["c", "average"] == 1
    with pytest.raises(UsageError, match="expected higher or lower"):
        average_rank(table, {"up": "higher"})
    with pytest.raises(UsageError, match="expected higher or lower, got 'one'"):
        average_rank(table, {"up": "higher", "down": "one"})


def test_scoring_a_suite_records_the_view_and_tells_of_cut_prompts(folders, tmp_path):
    looks = [("hps", "hps", "letterbox"), ("hps", "hps", "tiles"), ("image-reward", "reward", "centre")]
    uses = "".join(
        f'[[metrics]]\nref = "{ref}"\nextractor = "{role}@{folders[role]}"\nlabel = "{ref}-{view}"\nview = "{view}"\n'
        for ref, role, view in looks
    )
    file = write_suite(tmp_path, SUITE.replace('[[metrics]]\nref = "plugins.py@brightness"\n', uses))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(prompts.read_text().replace("a photo of a reef", "reef " * 20))
    suite, store = load_suite(file), Store(tmp_path / "store")
    assert generate(make_plan(suite, store), store).complete
    result = score(suite, store, device="cpu")
    assert (result.scored, result.failed, result.blocked) == (18, 0, {})
    (note,) = [n for n in result.notes if "longer" in n]
    assert note.startswith("1 of 3 prompts")  # twenty reefs are more than 35 pieces, and less than 77
    assert "reward@" in note
    kept = [r for r in store.records() if r["kind"] == "score"]
    assert {(r["metric"], r["extractor"], r["view"]) for r in kept} == set(looks)
    assert {sum(v[1] is not None for v in r["values"]) for r in kept if r["view"] == "tiles"} == {2}
    cut = {r["prompt_id"]: v[2] for r in kept for v in r["values"] if v[0] == "image-reward-cut"}
    assert cut == {"harbour": 0, "reef": 1, "dune": 0}
