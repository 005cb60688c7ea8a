"""States of the metric classes: own copies, of every float type, gathered over processes that have rows or none."""

import gc
import json
import multiprocessing
import weakref

import numpy as np
import pytest
import torch
import torch.distributed as dist

from bench import metrics, views
from bench.errors import UsageError
from bench.metrics import FID, GSD, IS, KID, CLIPScore, RelativeFID
from bench.metrics.distribution import frechet_distance, relative_fid
from bench.metrics.modules.images import _PerImage
from bench.metrics.modules.sets import _PerSet
from bench.types import Canvas

CLASSES = {name: getattr(metrics, name) for name in metrics.__all__}
OF_IMAGES = {name: cls for name, cls in CLASSES.items() if issubclass(cls, _PerImage)}
OF_SETS = {name: cls for name, cls in CLASSES.items() if issubclass(cls, _PerSet)}
FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
CLOSE = 1e-9  # sums of float64 in another order


class Network:
    """Answers for every role without any weights."""

    name, digest, dim, stock, scale = "stub", "stub", 6, "centre", 1.0

    def __init__(self, role):
        self.role = role

    def embed(self, crops):
        return np.stack([[*c.mean((0, 1)), *c.std((0, 1))] for c in crops]).astype(np.float32) / 64

    def embed_text(self, texts):
        return np.stack([np.random.default_rng(len(t)).normal(size=self.dim) for t in texts])

    def logits(self, features):
        return features[:, :4]

    def distances(self, crops):
        x = self.embed(crops)
        return np.abs(x[:, None] - x[None]).sum(-1)

    def score(self, crops, text):
        return self.embed(crops).sum(1) + len(text)

    def rate(self, features):
        return features.sum(1)

    def truncated(self, texts):
        return [False] * len(texts)


def made(cls, **options):
    """A metric of a class: with a network if it is of pictures, of rows if it is of sets."""
    return cls(Network(cls.spec.extractor), **options) if issubclass(cls, _PerImage) else cls()


def scrolls(n, seed=0):
    """Float pictures (n, 3, 16, 64) in [0, 1], parts of which differ."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.random((n, 3, 1, 4)), 16, axis=-1)
    return torch.from_numpy(0.5 * level + 0.5 * rng.random((n, 3, 16, 64)))


def rows():
    """Batches of rows by input, each (4, 8, 6): of the base network more than of the panoramas."""
    rng = np.random.default_rng(0)
    names = ("features", "logits", "reference")
    return {name: rng.normal(i, 1, size=(4, 8, 6)) for i, name in enumerate(names)} | {
        "base": rng.normal(size=(4, 12, 6))
    }


def add(metric, name, batch):
    """Add rows to one of a set metric's inputs by its own ``update``."""
    inputs = type(metric).spec.inputs
    if "base" in inputs:
        metric.update(batch, of=name)
    elif "reference" in inputs:
        metric.update(batch, real=name == "reference")
    else:
        metric.update(batch)


def of(cls, sets):
    """What the metric's function says of whole sets."""
    return cls.spec.fn(*(np.concatenate(list(sets[n])) for n in cls.spec.inputs))[cls.spec.name]


# -- copies


def through_one_buffer(cls, buffer, put):
    metric, sets = made(cls), rows()
    for turn in range(4):
        for name in cls.spec.inputs:
            batch = sets[name][turn][:8]
            put(buffer, batch)
            add(metric, name, buffer)
    return float(metric.compute()), of(cls, {n: s[:, :8] for n, s in sets.items()})


@pytest.mark.parametrize("cls", OF_SETS.values(), ids=OF_SETS)
def test_rows_are_those_of_the_time_of_update_though_the_buffer_is_used_again(cls, monkeypatch):
    def put(buffer, batch):
        buffer[:] = torch.from_numpy(batch) if isinstance(buffer, torch.Tensor) else batch

    for buffer in (np.empty((8, 6)), torch.empty(8, 6, dtype=torch.float64)):
        found, right = through_one_buffer(cls, buffer, put)
        assert found == pytest.approx(right, rel=CLOSE)
    monkeypatch.setattr(cls, "_own", lambda self, rows: torch.as_tensor(rows).flatten())
    found, right = through_one_buffer(cls, np.empty((8, 6)), put)  # the control: states that are the buffer itself
    assert found != pytest.approx(right, rel=1e-3)


@pytest.mark.parametrize("cls", OF_IMAGES.values(), ids=OF_IMAGES)
def test_pictures_are_those_of_the_time_of_update_though_the_buffer_is_used_again(cls):
    metric, buffer = made(cls), torch.empty(1, 3, 16, 64, dtype=torch.uint8)
    whole = (scrolls(3) * 255).round().to(torch.uint8)
    for picture in whole:
        buffer[:] = picture
        metric.update(buffer, ["a sea"])
    buffer[:] = 0
    at_once = made(cls)
    at_once.update(whole, ["a sea"] * 3)
    assert float(metric.compute()) == float(at_once.compute())


@pytest.mark.parametrize("cls", OF_SETS.values(), ids=OF_SETS)
def test_rows_that_require_grad_give_a_number_and_no_graph_is_kept(cls):
    metric, sets, graphs = made(cls), rows(), []
    for name in cls.spec.inputs:
        batch = torch.from_numpy(np.concatenate(list(sets[name]))).requires_grad_() * 1
        assert batch.grad_fn is not None
        graphs.append(weakref.ref(batch))
        add(metric, name, batch)
    del batch
    gc.collect()
    assert [ref() for ref in graphs] == [None] * len(graphs)
    assert float(metric.compute()) == pytest.approx(of(cls, sets), rel=CLOSE)


@pytest.mark.parametrize("cls", OF_IMAGES.values(), ids=OF_IMAGES)
def test_pictures_that_require_grad_give_a_number_and_no_graph_is_kept(cls, recwarn):
    metric, plain = made(cls), made(cls)
    metric.update(scrolls(2).requires_grad_() * 1, ["a sea"] * 2)
    plain.update(scrolls(2), ["a sea"] * 2)
    assert not metric.total.requires_grad
    assert float(metric.compute()) == float(plain.compute())
    assert not [w for w in recwarn if "requires_grad" in str(w.message)]


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_updates_in_and_out_of_inference_mode_go_together(cls):
    plain, mixed = made(cls), made(cls)
    with torch.inference_mode():
        mixed.reset()
        fill(mixed)
    fill(mixed)
    for _ in range(2):
        fill(plain)
    assert float(mixed.compute()) == float(plain.compute())


def fill(metric):
    """Some of everything that a metric takes."""
    if isinstance(metric, _PerImage):
        metric.update(scrolls(2), ["a sea"] * 2)
    else:
        for name in type(metric).spec.inputs:
            add(metric, name, torch.from_numpy(rows()[name][0]))


# -- types


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("cls", OF_SETS.values(), ids=OF_SETS)
def test_rows_of_every_float_type_count_with_the_values_they_have(cls, dtype):
    sets = {name: torch.from_numpy(x).to(dtype) for name, x in rows().items()}
    right = of(cls, {name: x.double().numpy() for name, x in sets.items()})
    metric = made(cls)
    for name in cls.spec.inputs:
        for batch in sets[name]:
            add(metric, name, batch)
    assert float(metric.compute()) == pytest.approx(right, rel=CLOSE)
    if dtype != torch.bfloat16:  # which numpy does not have
        metric.reset()
        for name in cls.spec.inputs:
            foreign = sets[name].numpy().reshape(-1, 6)
            add(metric, name, foreign.astype(foreign.dtype.newbyteorder(">"))[::-1])
        assert float(metric.compute()) == pytest.approx(right, rel=CLOSE)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("cls", OF_IMAGES.values(), ids=OF_IMAGES)
def test_pictures_of_every_float_type_are_rounded_once(cls, dtype):
    given = scrolls(2).to(dtype)
    exact = [np.round(p.permute(1, 2, 0).double().numpy() * 255).astype(np.uint8) for p in given]
    by_floats, by_bytes = made(cls), made(cls)
    by_floats.update(given, ["a sea"] * 2)
    by_bytes.update(exact, ["a sea"] * 2)
    assert float(by_floats.compute()) == float(by_bytes.compute())
    twice = (given * 255).round().double().numpy()  # the control: a product in the pictures' own type
    assert (dtype in (torch.bfloat16, torch.float16)) == bool((twice != np.round(given.double().numpy() * 255)).any())


@pytest.mark.parametrize("cls", OF_SETS.values(), ids=OF_SETS)
def test_rows_are_kept_in_the_precision_that_is_asked_for(cls):
    sets = {name: torch.from_numpy(x).float() for name, x in rows().items()}
    double, single = made(cls), made(cls).set_dtype(torch.float32)
    for metric in (double, single):
        for name in cls.spec.inputs:
            add(metric, name, sets[name].reshape(-1, 6))
    assert [getattr(m, cls.spec.inputs[0])[0].dtype for m in (double, single)] == [torch.float64, torch.float32]
    assert float(single.compute()) == float(double.compute())


def test_what_is_no_row_or_another_width_is_refused_at_once():
    metric = FID()
    metric.update(np.zeros((0, 6)), real=True)  # nothing is nothing
    metric.update(np.zeros((3, 6)), real=True)
    for bad, said in ((np.zeros(6), r"\(n, d\), got \(6,\)"), (torch.zeros(2, 3, 8, 8), "pictures need an extractor")):
        with pytest.raises(UsageError, match=said):
            metric.update(bad, real=False)
    with pytest.raises(UsageError, match="rows of width 6, got 5"):
        metric.update(np.zeros((3, 5)), real=False)


# -- views that draw


def test_a_view_that_draws_is_told_what_from_and_looks_where_the_harness_looks(monkeypatch):
    picture = [(scrolls(1)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)] * 2
    canvas, seen = Canvas(64, 16), []
    monkeypatch.setattr(Network, "embed", lambda self, crops: seen.extend(crops) or np.ones((len(crops), 6)))
    for view, by in (("random", ["harbour", "reef"]), ("random-2023", [7, 2])):
        right = [views.crops(picture[0], view, canvas, str(d))[0] for d in by]
        assert not np.array_equal(*right)
        for metric in (CLIPScore(Network("clip"), view=view), KID(Network("inception"), view=view)):
            extra = {"prompts": ["a sea"] * 2} if isinstance(metric, CLIPScore) else {"real": True}
            seen.clear()
            metric.update(picture, drawn_by=by, **extra)
            assert np.array_equal(seen, right)
            with pytest.raises(UsageError, match="draws its places: expected drawn_by"):
                metric.update(picture, **extra)
    with pytest.raises(UsageError, match="the turn of each picture"):
        GSD(Network("dino"), view="random-2023").update(picture, drawn_by=["harbour", "reef"])


# -- processes


def shares(layout, n):
    """Which of n items each of two processes has."""
    everything = list(range(n))
    return {
        "alternate": [everything[0::2], everything[1::2]],
        "swapped": [everything[1::2], everything[0::2]],
        "second has none": [everything, []],
        "first has none": [[], everything],
    }[layout]


LAYOUTS = ("alternate", "swapped", "second has none", "first has none")


def measured(cls, mine, ours=None):
    """The number of the items ``mine``; references and base pictures are dealt out evenly in any case."""
    metric = made(cls)
    if issubclass(cls, _PerImage):
        pictures = scrolls(5)
        for i in mine:
            metric.update(pictures[i : i + 1], ["a sea by night"[: 5 + i]])
        return float(metric.compute())
    sets = rows()
    for name in cls.spec.inputs:
        for i in mine if name in ("features", "logits") else ours or range(4):
            add(metric, name, sets[name][i])
    return float(metric.compute())


def work(rank, folder):
    """One of two processes: all metrics under all layouts, and what must be refused on both."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    found = {}
    for name, cls in CLASSES.items():
        for layout in LAYOUTS:
            mine = shares(layout, 5 if issubclass(cls, _PerImage) else 4)[rank]
            found[f"{name} {layout}"] = measured(cls, mine, shares("alternate", 4)[rank])
    mixed = FID()  # one process in single, the other in double precision
    mixed.update(rows()["reference"][rank].astype([np.float32, np.float64][rank]), real=True)
    mixed.update(rows()["features"][rank].astype([np.float32, np.float64][rank]), real=False)
    found["mixed"] = float(mixed.compute())
    wrong = [IS(), IS()]
    if not rank:
        wrong[0].update(np.zeros((3, 4)))
    else:
        wrong[0].update(np.zeros((3, 5)))
    for i, metric in enumerate(wrong):  # two widths; no rows in either process
        try:
            metric.compute()
        except UsageError as error:
            found[f"wrong {i}"] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.metrics.modules"])  # torch is imported once for both
    both = [context.Process(target=work, args=(rank, folder)) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", CLASSES)
def test_processes_of_which_some_have_no_pictures_give_the_number_of_one(processes, name):
    cls = CLASSES[name]
    single = measured(cls, range(5 if issubclass(cls, _PerImage) else 4))
    assert np.isfinite(single)
    for found in processes:
        for layout in LAYOUTS:
            assert found[f"{name} {layout}"] == pytest.approx(single, rel=CLOSE), layout


def test_processes_may_differ_in_precision_and_are_told_alike_what_does_not_fit(processes):
    sets = rows()
    features, reference = (
        np.concatenate([sets[name][0].astype(np.float32).astype(np.float64), sets[name][1]])
        for name in ("features", "reference")
    )
    for found in processes:
        assert found["mixed"] == pytest.approx(frechet_distance(features, reference), rel=CLOSE)
        assert "rows of one width in all processes, got 4, 5" in found["wrong 0"]
        assert "no rows of logits yet" in found["wrong 1"]


@pytest.mark.parametrize("cls", OF_SETS.values(), ids=OF_SETS)
def test_a_process_without_rows_hands_over_states_of_the_same_kind(cls, monkeypatch):
    def handed_over(metric):
        seen = []
        metric.sync(lambda t, group: seen.append((t.dtype, t.ndim)) or [t], distributed_available=lambda: True)
        return seen

    def both():
        full, empty = made(cls), made(cls)
        for name in cls.spec.inputs:
            add(full, name, rows()[name][0])
        return handed_over(full), handed_over(empty)

    assert both()[0] == both()[1]
    monkeypatch.setattr(cls, "set_dtype", lambda self, dtype: self)  # the control: torchmetrics' own type, and rows of
    monkeypatch.setattr(cls, "_own", lambda self, rows: torch.from_numpy(rows))  # two dimensions
    full, empty = both()
    assert full != empty


def test_which_rows_of_a_larger_base_set_count_does_not_depend_on_their_order():
    features, reference, base = (np.concatenate(list(rows()[n])) for n in ("features", "reference", "base"))
    found = {}
    for seed in range(3):
        metric = RelativeFID()
        metric.update(features)
        metric.update(reference, of="reference")
        metric.update(np.random.default_rng(seed).permutation(base), of="base")
        found[seed] = float(metric.compute())
    assert len({round(v, 9) for v in found.values()}) == 1
    assert found[0] == pytest.approx(relative_fid.fn(features, reference, base)["relative-fid"], rel=CLOSE)
    first = frechet_distance(features, reference) - frechet_distance(base[: len(features)], reference)
    assert found[0] != pytest.approx(first, rel=1e-3)
