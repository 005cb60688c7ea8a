"""Scoring end to end on pictures of a control, with tiny random networks: nothing twice, nothing dropped."""

import json
import threading
import weakref
from dataclasses import asdict

import numpy as np
import pytest

from bench import prompts as prompt_sets
from bench.errors import PrerequisiteError, UsageError
from bench.extractors import network
from bench.pipeline import references, scorer
from bench.pipeline.generate import generate
from bench.pipeline.plan import make_plan
from bench.pipeline.score import score
from bench.store import Store
from bench.suites.load import load_suite
from tests.support import tiny

PLUGINS = '''
from bench.registry import method, metric
from bench.types import Value

@method("grain", family="control")
def grain(prompt, canvas, noise, *, level: float = 1.0, fail: str = ""):
    """Noise; black for the prompt that is to fail."""
    if prompt.id == fail:
        return 0 * noise.generator("canvas").random((3, canvas.height, canvas.width))
    return level * noise.generator("canvas").random((3, canvas.height, canvas.width))

@metric("brightness", scope="image", values={"brightness": "none"})
def brightness(sample, *, scale: float = 1.0):
    """Mean value."""
    return [Value("brightness", scale * float(sample.rgb.mean()))]

@metric("fragile", scope="image", values={"fragile": "none"})
def fragile(sample, *, memory: bool = False):
    """Fails on black pictures."""
    if not sample.rgb.any():
        raise (MemoryError("out of memory") if memory else ValueError("nothing to see"))
    return [Value("fragile", 1.0)]

@metric("nowhere", scope="image", values={"nowhere": "none"})
def nowhere(sample):
    """Not a number."""
    return [Value("nowhere", float("nan")), Value("nowhere", 1.0, 0)]

@metric("high", scope="image", values={"high": "lower", "free": "none"}, range=(0.0, 1.0))
def high(sample, *, by: float = 2.0):
    """Leaves its range; what has no direction may."""
    return [Value("free", 7.0), Value("high", by)]

@metric("liar", scope="image", values={"liar": "none"})
def liar(sample):
    """Returns what it did not declare."""
    return [Value("lair", 1.0)]
'''

SUITE = """
name = "small"
version = "1"
tier = "miniature"
[[parts]]
name = "4to1"
width = 128
height = 32
prompts = "prompts.jsonl"
[[methods]]
ref = "plugins.py@grain"
label = "grain"
[[methods]]
ref = "plugins.py@grain"
label = "dim"
[methods.set]
level = 0.5
"""

SCENE = {"style": "photo", "biome": "sea", "time": "day", "weather": "clear", "unique": "sun", "counted": None}
KID = """
[[metrics]]
ref = "kid"
extractor = "inception@{inception}"
reference = "panoramas"
[references.panoramas]
kind = "world"
width = 64
count = 3
prompts = "toy@1"
"""


def metrics(*refs, **more):
    """TOML of metrics; ``ref=extractor`` names one."""
    lines = []
    for ref in refs:
        name, _, extractor = ref.partition("=")
        lines += ["[[metrics]]", f'ref = "{name}"', *([f'extractor = "{extractor}"'] if extractor else [])]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    made = {"dino": tiny.vit, "clip": tiny.clip, "lpips": tiny.lpips, "inception": tiny.cnn}
    return {role: make(root / f"tiny-{role}") for role, make in made.items()}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with a suite, a store with its pictures, and a prompt set for references."""
    toy = tmp_path / "prompts" / "toy" / "1"
    toy.mkdir(parents=True)
    rows = [{"id": f"p-{b}", "text": f"the {b}", "scene": {**SCENE, "biome": b}} for b in ("sea", "desert")]
    (toy / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(references, "load_prompts", lambda ref: prompt_sets.load_prompts(ref, tmp_path / "prompts"))
    (tmp_path / "plugins.py").write_text(PLUGINS)
    texts = [{"id": i, "text": f"a photo of a {i}"} for i in ("harbour", "reef", "dune")]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, texts)))
    return World(tmp_path)


class World:
    def __init__(self, folder):
        self.folder, self.store = folder, Store(folder / "store")

    def suite(self, text, **overrides):
        (self.folder / "suite.toml").write_text(SUITE + text)
        return load_suite(self.folder / "suite.toml", overrides)

    def made(self, text="", **overrides):
        """The suite, with all its pictures made."""
        suite = self.suite(text, **overrides)
        assert generate(make_plan(suite, self.store), self.store).complete
        return suite

    def records(self, kind):
        return [r for r in self.store.records() if r["kind"] == kind]


def test_every_metric_is_recorded_for_every_picture(world, nets):
    refs = ("plugins.py@brightness", f"gsd-dino=dino@{nets['dino']}", f"clip-score=clip@{nets['clip']}",
            f"intra-lpips=lpips@{nets['lpips']}")  # fmt: skip
    result = score(world.made(metrics(*refs)), world.store)
    assert (result.scored, result.reused, result.failed, result.waiting) == (24, 0, 0, 0)
    rows = world.records("score")
    assert {r["metric"] for r in rows} == {"brightness", "gsd-dino", "clip-score", "intra-lpips"}
    gsd = next(r for r in rows if r["metric"] == "gsd-dino")
    assert (gsd["extractor"], gsd["view"], gsd["prompt_id"]) == ("tiny-dino", "tiles", None)
    assert {v[0] for v in gsd["values"]} == {"gsd-dino", "gsd-dino-distant", "gsd-dino-worst", "gsd-dino-lag"}
    assert {r["prompt_id"] for r in rows if r["metric"] == "clip-score"} == {"harbour", "reef", "dune"}


def test_scoring_again_computes_nothing_and_loads_no_network(world, nets, monkeypatch):
    suite = world.made(metrics(f"gsd-dino=dino@{nets['dino']}") + KID.format(**nets))
    first = score(suite, world.store)
    monkeypatch.setattr("bench.extractors.load", lambda *_: pytest.fail("a network was loaded"))
    again = score(suite, world.store)
    assert (first.scored, first.sets) == (6, 2)
    assert (again.scored, again.reused, again.sets, again.sets_reused) == (0, 6, 0, 2)


def test_a_new_metric_or_picture_costs_only_what_is_new(world, nets):
    few = world.made(metrics("plugins.py@brightness"), limit=1)
    assert score(few, world.store).scored == 2
    everything = world.made(metrics("plugins.py@brightness", "plugins.py@fragile"))
    result = score(everything, world.store)
    assert (result.scored, result.reused) == (4 + 6, 2)


@pytest.mark.parametrize(
    "change",
    ["[metrics.set]\nscale = 2.0", 'view = "centre"', 'label = "other"'],
    ids=["knob", "view", "label"],
)
def test_what_changes_the_number_is_computed_anew_and_a_label_is_not(world, change):
    base = metrics("plugins.py@brightness")
    score(world.made(base), world.store)
    changed = score(world.suite(base + change), world.store)
    assert changed.scored == (0 if "label" in change else 6)


def test_other_weights_are_other_scores(world, tmp_path):
    first, second = tiny.vit(tmp_path / "a" / "net"), tiny.vit(tmp_path / "b" / "net", seed=1)
    score(world.made(metrics(f"gsd-dino=dino@{first}")), world.store)
    assert score(world.suite(metrics(f"gsd-dino=dino@{first}")), world.store).scored == 0
    assert score(world.suite(metrics(f"gsd-dino=dino@{second}")), world.store).scored == 6


def test_a_prompt_is_part_of_a_prompted_score_only(world, nets):
    text = metrics("plugins.py@brightness", f"clip-score=clip@{nets['clip']}")
    suite = world.made(text, set=["grain.level=0", "dim.level=0"])
    result = score(suite, world.store)  # all pictures are black, hence one picture
    assert len({r["image_id"] for r in world.records("image")}) == 1
    assert result.scored == 1 + 3
    assert result.reused == 5 + 3


def test_metrics_of_one_network_share_its_features(world, nets, monkeypatch):
    from bench.extractors.lpips import Lpips

    calls, real = [], Lpips.distances
    monkeypatch.setattr(Lpips, "distances", lambda self, crops: calls.append(1) or real(self, crops))
    refs = [f"{m}=lpips@{nets['lpips']}" for m in ("gsd-lpips", "intra-lpips", "adjacent")]
    assert score(world.made(metrics(*refs)), world.store).scored == 18
    assert len(calls) == 6


def test_two_pictures_at_most_are_in_memory_and_crops_go_through_the_networks_in_batches(world, nets, monkeypatch):
    suite = world.made(metrics("plugins.py@brightness", f"gsd-dino=dino@{nets['dino']}") + KID.format(**nets))
    read, held, batches = [], [], []
    real_read, real_tensor = Store.open_image, network.Network._tensor

    def reading(self, image_id):
        held.append(sum(r() is not None for r in read))
        rgb = real_read(self, image_id)
        read.append(weakref.ref(rgb))
        return rgb

    monkeypatch.setattr(Store, "open_image", reading)
    monkeypatch.setattr(network, "BATCH", 3)
    monkeypatch.setattr(network.Network, "_tensor", lambda *a: batches.append(len(a[1])) or real_tensor(*a))
    assert score(suite, world.store).failed == 0
    assert len(held) == 3 * 6
    assert max(held) <= 1  # the one that is looked at, while the next one is read
    assert set(batches) == {3, 1, 2}  # of 4 tiles a picture, and of 2 a picture of the reference set
    together = [world.store.read_image(r["image_id"]) for r in world.records("image")]  # the control: all are kept
    assert held[-len(together) :] == list(range(len(together)))


@pytest.mark.parametrize("ahead", [True, False])
def test_the_next_picture_is_read_while_one_is_looked_at(world, monkeypatch, ahead):
    suite = world.made(metrics("plugins.py@brightness"))
    real_read, began = Store.open_image, [threading.Event() for _ in range(6)]
    turns = iter(began)

    def reading(self, image_id):
        next(turns).set()
        return real_read(self, image_id)

    real_look, looked = scorer.Scorer._score, []

    def looking(self, *args):
        looked.append(began[min(len(looked) + 1, 5)].wait(timeout=30 if ahead else 0.01))
        return real_look(self, *args)

    monkeypatch.setattr(Store, "open_image", reading)
    monkeypatch.setattr(scorer.Scorer, "_score", looking)
    if not ahead:
        monkeypatch.setattr(scorer.Scorer, "expect", lambda self, item: None)
    assert score(suite, world.store).scored == 6
    assert looked == [ahead] * 5 + [True]  # nothing comes after the last


def test_a_failing_metric_is_recorded_and_the_rest_goes_on(world):
    text = metrics("plugins.py@fragile", "plugins.py@brightness")
    suite = world.made(text, set=["grain.fail=reef"])  # black for both methods, so one picture
    result = score(suite, world.store)
    assert (result.scored, result.reused, result.failed) == (4 + 5, 2, 1)
    (failure,) = world.records("score_failure")
    (picture,) = [r for r in world.records("image") if r["recipe_id"] == failure["recipe_id"]]
    assert (failure["reason"], picture["prompt_id"], failure["metric"]) == ("crash", "reef", "fragile")
    assert "nothing to see" in failure["message"]
    line = 1 + PLUGINS.splitlines().index(
        '        raise (MemoryError("out of memory") if memory else ValueError("nothing to see"))'
    )
    assert failure["message"].startswith("metric plugins.py@fragile, ")
    assert f"plugins.py:{line}: ValueError" in failure["message"]
    black = next(r for r in world.records("image") if "black" in r["flags"])
    values = [r["values"] for r in world.records("score") if r["image_id"] == black["image_id"]]
    assert values == [[["brightness", None, 0.0]]]
    plan = make_plan(suite, world.store)
    assert not plan.jobs  # nor is any picture given up for it
    assert not plan.quarantined
    assert score(suite, world.store).failed == 1  # tried again


def test_running_out_of_memory_is_told_from_a_crash(world):
    suite = world.made(metrics("plugins.py@fragile") + "[metrics.set]\nmemory = true\n", set=["grain.fail=reef"])
    score(suite, world.store)
    assert [r["reason"] for r in world.records("score_failure")] == ["oom"]


def test_undefined_numbers_are_recorded_as_missing_not_as_zero(world):
    score(world.made(metrics("plugins.py@nowhere")), world.store)
    for record in world.records("score"):
        assert record["values"] == [["nowhere", None, None], ["nowhere", 0, 1.0]]


def test_a_metric_that_returns_what_it_did_not_declare_is_told_so(world):
    result = score(world.made(metrics("plugins.py@liar")), world.store)
    assert result.failed == 6
    assert any("did you mean 'liar'" in note for note in result.notes)


def test_a_number_outside_its_declared_range_is_a_failure_that_says_so(world):
    result = score(world.made(metrics("plugins.py@high")), world.store)
    assert result.failed == 6
    assert "metric 'high' returned high = 2, outside its declared range 0 to 1" in result.notes[0]
    fine = score(world.made(metrics("plugins.py@high") + "[metrics.set]\nby = 1.0\n"), world.store)
    assert (fine.scored, fine.failed) == (6, 0)  # negative control


def test_a_damaged_picture_fails_alone(world):
    suite = world.made(metrics("plugins.py@brightness"))
    victim = world.records("image")[0]["image_id"]
    world.store.image_path(victim).write_bytes(b"no picture")
    result = score(suite, world.store)
    assert (result.scored, result.failed) == (5, 1)
    assert "damaged picture" in world.records("score_failure")[0]["message"]


def test_pictures_that_are_not_there_are_counted_as_waiting(world):
    suite = world.suite(metrics("plugins.py@brightness"))
    nothing = score(suite, world.store)
    assert (nothing.scored, nothing.waiting) == (0, 6)
    world.made(metrics("plugins.py@brightness"), methods=["dim"])
    half = score(suite, world.store)
    assert (half.scored, half.waiting) == (3, 3)


def test_set_scores_name_their_reference_and_sizes(world, nets):
    score(world.made(KID.format(**nets)), world.store)
    rows = world.records("set_score")
    assert [(r["label"], r["n"], r["m"], r["n_rows"], r["m_rows"]) for r in rows] == [
        ("dim", 3, 3, 12, 6), ("grain", 3, 3, 12, 6)
    ]  # fmt: skip
    assert rows[0]["reference"] == "panoramas"
    assert (world.store.root / "references" / f"{rows[0]['reference_id']}.json").exists()
    assert rows[0]["values"]["kid"] != rows[1]["values"]["kid"]


def test_set_scores_equal_the_distance_of_the_crops_features(world, nets):
    from bench import extractors
    from bench.metrics.distribution import kernel_distance

    suite = world.made(KID.format(**nets))
    score(suite, world.store)
    net = extractors.load(f"inception@{nets['inception']}")
    images = [r["image_id"] for r in world.records("image") if r["label"] == "grain"]
    ours = net.embed([c for i in images for c in np.split(world.store.read_image(i), 4, axis=1)])
    items = references.load_reference("panoramas", suite.references["panoramas"], world.folder).items
    theirs = net.embed([c for item in items for c in np.split(item.pixels(), 2, axis=1)])
    kid = next(r["values"]["kid"] for r in world.records("set_score") if r["label"] == "grain")
    assert kid == pytest.approx(kernel_distance(ours, theirs), rel=1e-4)


def test_set_scores_follow_the_set_of_pictures(world, nets):
    text = KID.format(**nets)
    world.made(text, limit=2)
    partial = world.suite(text, limit=2)
    assert score(partial, world.store).sets == 2
    assert score(partial, world.store).sets_reused == 2
    assert score(world.made(text), world.store).sets == 2


def test_sets_too_small_to_compare_are_failures_with_numbers(world, nets):
    text = KID.format(**nets) + '[references.one]\nkind = "world"\nwidth = 32\ncount = 1\nprompts = "toy@1"\n'
    text = text.replace('reference = "panoramas"', 'reference = "one"')
    result = score(world.made(text), world.store)
    assert (result.sets, result.sets_failed) == (0, 2)
    assert "n=12 and m=1" in world.records("score_failure")[0]["message"]


def test_a_distance_may_look_through_any_network_that_embeds(world, nets):
    text = KID.format(inception="").replace('"inception@"', f'"dino@{nets["dino"]}"')
    assert score(world.made(text), world.store).sets == 2


def test_missing_weights_block_their_metrics_and_not_the_others(world, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    text = metrics("plugins.py@brightness", "intra-lpips=lpips-vgg")
    result = score(world.made(text), world.store)
    assert result.scored == 6
    assert "scrollbench weights fetch lpips-vgg" in result.blocked["intra-lpips"]
    with pytest.raises(PrerequisiteError, match="scrollbench weights fetch lpips-vgg"):
        score(world.suite(metrics("intra-lpips=lpips-vgg")), world.store)


def test_weights_that_do_not_load_block_their_metrics_and_not_the_others(world, tmp_path):
    broken = tiny.vit(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    result = score(world.made(metrics("plugins.py@brightness", f"gsd-dino=dino@{broken}")), world.store)
    assert result.scored == 6
    assert "does not load" in result.blocked["gsd-dino"]


def test_long_prompts_are_told(world, nets):
    rows = [{"id": "long", "text": "sea " * 90}, {"id": "short", "text": "sea"}]
    (world.folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = score(world.made(metrics(f"clip-score=clip@{nets['clip']}")), world.store)
    assert any(note.startswith("1 of 2 prompts") for note in result.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (metrics("gsd-dino=lpips-vgg"), "role dino"),
        (metrics("gsd-dino=dinov2-vitb"), "did you mean"),
        ('[[metrics]]\nref = "gsd-dino"\nview = "tile"\n', "did you mean 'tiles'"),
        ('[[metrics]]\nref = "gsd-dino"\nview = "ring"\n', "loops"),
        ('[[metrics]]\nref = "kid"\nreference = "panorama"\n[references.panoramas]\nkind = "world"\n', "panoramas"),
    ],
)
def test_metrics_that_cannot_work_are_refused_before_any_work(world, text, said):
    with pytest.raises(UsageError, match=said):
        score(world.suite(text), world.store)


def test_progress_hears_of_every_score_once(world, nets):
    class Heard:
        total = done = 0

        def start(self, stage, total):
            self.total = total

        def advance(self, stage, n=1, note=""):
            self.done += n

        def finish(self, stage):
            assert self.done == self.total

    heard = Heard()
    text = metrics("plugins.py@fragile", "plugins.py@brightness") + KID.format(**nets)
    result = score(world.made(text, set=["grain.fail=reef"]), world.store, heard)
    assert heard.total == result.scored + result.failed + result.sets == 9 + 1 + 2


def test_pictures_are_scored_where_their_method_is_not_installed(world):
    text = metrics("plugins.py@brightness")
    suite = world.made(text)
    expected = asdict(score(suite, world.store))
    (world.folder / "plugins.py").write_text(PLUGINS.replace('@method("grain"', '@method("gone"'))
    again = score(world.suite(text), world.store)
    assert (again.reused, again.waiting) == (expected["scored"], 0)
    assert any("do not load" in note for note in again.notes)
