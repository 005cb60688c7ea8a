"""Set metrics in the harness: logits, sets of two kinds of references, and crops that follow a picture's turn."""

import numpy as np
import pytest
import tiny
from PIL import Image

from bench import extractors
from bench.errors import UsageError
from bench.metrics.distribution import frechet_distance, inception_scores
from bench.plan import make_plan
from bench.run import generate
from bench.score import score
from bench.store import Store
from bench.suite import load_suite
from bench.types import Canvas
from bench.views import boxes

PLUGINS = '''
from bench.registry import method
from bench.types import Cost

@method("grain", family="latent")
def grain(backbone, prompt, canvas, noise):
    """Noise."""
    return noise.generator("canvas").random((3, canvas.height, canvas.width))

class Info:
    name, family, weights_digest = "fake", "latent", "weights-1"

class Meter:
    def reset(self): pass
    def cost(self): return Cost(1, {})

class Backbone:
    weights = Info.weights_digest
    def __init__(self): self.meter = Meter()

def fake(device="cpu", precision="fp32"):
    return Backbone()

fake.describe = lambda **options: Info
'''
SUITE = """
name = "small"
version = "1"
tier = "miniature"
backbone = "plugins.py@fake"
seeds = [0, 1]
[[parts]]
name = "4to1"
width = 128
height = 32
prompts = "prompts.jsonl"
[[methods]]
ref = "plugins.py@grain"
label = "grain"
"""
SQUARES = '[references.squares]\nkind = "folder"\npath = "squares"\n'
BASE = '[references.base-fake]\nkind = "folder"\npath = "base"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("suite")
    (root / "plugins.py").write_text(PLUGINS)
    (root / "prompts.jsonl").write_text("".join(f'{{"id": "{i}", "text": "a {i}"}}\n' for i in ("harbour", "reef")))
    for name, seed, count in (("squares", 5, 6), ("base", 6, 8)):
        (root / name).mkdir()
        for i, rgb in enumerate(tiny.pictures(count, seed=seed)):
            Image.fromarray(rgb).save(root / name / f"{i}.png")
    tiny.cnn(root / "tiny-inception")
    tiny.lpips(root / "tiny-style")
    return root


def scored(folder, metrics, store):
    (folder / "suite.toml").write_text(SUITE + metrics)
    suite = load_suite(folder / "suite.toml", {})
    assert generate(make_plan(suite, store), store).complete
    return score(suite, store)


def entry(folder, ref, view="tiles", role="inception", **more):
    given = {"ref": ref, "view": view, "extractor": f"{role}@{folder / f'tiny-{role}'}", **more}
    return "[[metrics]]\n" + "".join(f'{k} = "{v}"\n' for k, v in given.items())


def records(store, kind):
    return [r for r in store.records() if r["kind"] == kind]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_the_inception_score_reads_logits_of_all_crops_and_no_reference(folder, store):
    text = entry(folder, "is") + entry(folder, "fid", reference="squares") + SQUARES
    result = scored(folder, text, store)
    assert (result.sets, result.sets_failed) == (2, 0)
    row = next(r for r in records(store, "set_score") if r["metric"] == "is")
    assert (row["reference"], row["reference_id"], row["n"], row["n_rows"]) == (None, None, 4, 16)
    net = extractors.load(f"inception@{folder / 'tiny-inception'}")
    crops = [c for i in records(store, "image") for c in np.split(store.read_image(i["image_id"]), 4, axis=1)]
    above = row["values"]["is"] - 1  # little, from a network without training
    assert above == pytest.approx(float(inception_scores(net.logits(net.embed(crops)))[0]) - 1, rel=1e-2)
    assert above != pytest.approx(float(inception_scores(net.embed(crops))[0]) - 1, rel=1e-2)
    assert scored(folder, text, store).sets_reused == 2


def test_relative_fid_takes_the_base_reference_of_the_pictures_backbone(folder, store):
    text = entry(folder, "relative-fid", "random", reference="squares") + SQUARES + BASE
    assert scored(folder, text, store).sets == 1
    (row,) = records(store, "set_score")
    net = extractors.load(f"inception@{folder / 'tiny-inception'}")
    squares, base = (net.embed([np.asarray(Image.open(p)) for p in sorted((folder / n).iterdir())])
                     for n in ("squares", "base"))  # fmt: skip
    canvas, images = Canvas(128, 32), {r["recipe_id"]: r for r in records(store, "image")}
    ours = []
    for r in images.values():
        box = boxes("random", canvas, r["recipe"]["prompt_id"])[0]
        ours.append(store.read_image(r["image_id"])[:, box.x : box.x + 32])
    half = base[np.lexsort(base.T[::-1])][::2]  # as many as there are panoramas, spread over their features
    expected = frechet_distance(net.embed(ours), squares), frechet_distance(half, squares)
    assert row["values"]["relative-fid-pictures"] == pytest.approx(expected[0], rel=1e-3)
    assert row["values"]["relative-fid-base"] == pytest.approx(expected[1], rel=1e-3)
    assert "+" in row["reference_id"]


def test_a_method_without_a_base_reference_is_left_out_and_said(folder, store):
    text = entry(folder, "relative-fid", reference="squares") + SQUARES
    result = scored(folder, text, store)
    assert (result.sets, result.sets_failed) == (0, 0)
    assert any("base-fake" in note for note in result.notes)
    planned = BASE.replace('path = "base"', 'path = "nowhere"\nplanned = true')
    assert any("base-fake" in note for note in scored(folder, text + planned, store).notes)


def test_each_picture_is_cropped_at_its_turn(folder, store):
    scored(folder, entry(folder, "fid", "random-2023", reference="squares") + SQUARES, store)
    net = extractors.load(f"inception@{folder / 'tiny-inception'}")
    with_turn = []
    order = [(s, p) for s in (0, 1) for p in ("harbour", "reef")]
    images = {(r["recipe"]["seed"], r["recipe"]["prompt_id"]): r["image_id"] for r in records(store, "image")}
    for turn, cell in enumerate(order):
        box = boxes("random-2023", Canvas(128, 32), str(turn))[0]
        with_turn.append(store.read_image(images[cell])[:, box.x : box.x + 32])
    squares = net.embed([np.asarray(Image.open(p)) for p in sorted((folder / "squares").iterdir())])
    (row,) = records(store, "set_score")
    assert row["values"]["fid"] == pytest.approx(frechet_distance(net.embed(with_turn), squares), rel=1e-3)
    first = [store.read_image(images[cell])[:, :32] for cell in order]
    assert row["values"]["fid"] != pytest.approx(frechet_distance(net.embed(first), squares), rel=1e-3)


def test_style_is_scored_like_any_other_image_metric(folder, store):
    result = scored(folder, entry(folder, "intra-style", role="style"), store)
    assert (result.scored, result.failed) == (4, 0)
    for row in records(store, "score"):
        values = {name: value for name, _, value in row["values"]}
        assert values["intra-style-sum"] == pytest.approx(6 * values["intra-style"])


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ('[[metrics]]\nref = "is"\nreference = "squares"\n' + SQUARES, "takes no reference"),
        ('[[metrics]]\nref = "relative-fid"\n' + SQUARES, "needs a reference"),
        ('[[metrics]]\nref = "is"\nextractor = "world-vit"\n', "role inception"),
    ],
)
def test_set_metrics_that_cannot_work_are_refused_before_any_work(folder, store, metrics, said):
    with pytest.raises(UsageError, match=said):
        scored(folder, metrics, store)
