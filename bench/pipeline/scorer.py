"""Numbers of pictures: one network, its features, and the metrics that look through it. Nothing is recorded here."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bench import extractors, views
from bench.device import choose as choose_device
from bench.errors import DeviceLostError, ScrollBenchError, StoreError, UsageError, near, text_of
from bench.metrics.sample import Sample
from bench.pipeline import score_plan
from bench.pipeline.environment import device_lost
from bench.pipeline.maker import classify
from bench.pipeline.references import Reference
from bench.pipeline.score_plan import Picture, Task
from bench.registry import Metric
from bench.store import Store
from bench.store.features import Features
from bench.store.raster import Raster
from bench.store.records import Record
from bench.types import Value, large

Pixels = np.ndarray | Raster


@dataclass(frozen=True, eq=False)
class Look:
    """Scores wanted of a picture: which of the scorer's tasks, each with what its record says beside its numbers."""

    picture: Picture
    wanted: tuple[tuple[int, Record], ...]


@dataclass(frozen=True, eq=False)
class Rows:
    """A picture's rows for a set metric, to be kept among the features."""

    task: int
    picture: Picture


@dataclass(frozen=True, eq=False)
class Whole:
    """A set metric's numbers of the pictures of one part and method, with the sets it is handed beside them."""

    task: int
    pictures: tuple[Picture, ...]
    sets: tuple[Reference, ...]
    about: Record


@dataclass(frozen=True, eq=False)
class Texts:
    """Prompts, of which those are counted that are longer than the network reads."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Unloaded:
    """The network does not load."""

    why: str


@dataclass(frozen=True)
class Keep:
    """No question: features go to disk, where other processes find them."""


Item = Look | Rows | Whole | Texts | Keep


class Scorer:
    """Answers items, with records to write, through one network that is loaded when the first one needs it.

    Args:
        ref: the extractor; None for metrics of plain pixels.
        store: where pictures and features are.
        device: where the extractor runs; :func:`bench.device.choose`'s where None.
        tasks: what items speak of by their places.
        apart: whether this is a copy in another process, which looked the metrics up for itself.
    """

    def __init__(
        self, ref: str | None, store: Store, device: str | None, tasks: tuple[Task, ...], apart: bool = False
    ) -> None:
        self.ref, self.store, self.asked, self.tasks, self.apart = ref, store, device, tasks, apart
        self._problem = ""
        self._coming: dict[str, Future[Pixels]] = {}  # pictures that are being read

    def __reduce__(self) -> tuple[Any, ...]:
        return Scorer, (self.ref, self.store, self.asked, self.tasks, True)

    @property
    def device(self) -> str:
        """Where the extractor runs."""
        return choose_device(self.asked) if self.ref else "cpu"

    def on(self, device: str) -> Scorer:
        """Another one, for another device."""
        return Scorer(self.ref, self.store, device, self.tasks)

    @cached_property
    def network(self) -> extractors.Extractor | None:
        """The loaded extractor; None for metrics of plain pixels."""
        return extractors.load(self.ref, self.device) if self.ref else None

    @cached_property
    def cache(self) -> Features | None:
        """Features that are known."""
        network = self.network
        return None if network is None else Features(self.store.root / "features", network.name, network.digest)

    def ready(self, item: Item) -> None:
        """Load the network; what goes wrong is told when the item is done."""
        if not isinstance(item, Keep):
            with suppress(Exception, SystemExit):
                self._loads()

    def _loads(self) -> str:
        """Why the network does not load; tried once."""
        if not self._problem:
            try:
                _ = self.network
            except Exception as error:  # damaged weights fail in many ways; no picture is at fault
                self._problem = f"{self.ref} does not load: {text_of(error)}"
        return self._problem

    def expect(self, item: Item | None) -> None:
        """Begin to read the picture that is looked at next, while another one is looked at. Large ones can wait."""
        if isinstance(item, Look) and not large(item.picture.canvas.height, item.picture.canvas.width):
            self._coming[item.picture.image_id] = self._reader.submit(self.store.open_image, item.picture.image_id)

    @cached_property
    def _reader(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1)

    def _pixels(self, image_id: str) -> Pixels:
        coming = self._coming.pop(image_id, None)
        return coming.result() if coming else self.store.open_image(image_id)

    def keep(self) -> None:
        """Keep the features that are not on disk yet, and look there anew for those of other processes."""
        if cache := self.__dict__.pop("cache", None):
            cache.flush()

    def close(self) -> None:
        """Keep what is to be kept, and let the network go."""
        self.keep()
        self.__dict__.pop("network", None)
        if reader := self.__dict__.pop("_reader", None):
            reader.shutdown()
            self._coming.clear()

    def __call__(self, item: Item) -> list[Record] | int | Unloaded:
        """Records of scores and failures; of texts how many are cut.

        Raises:
            DeviceLostError: the GPU no longer answers.
            StoreError: features cannot be written.
        """
        if isinstance(item, Keep):
            self.keep()
            return []
        if why := self._loads():
            return Unloaded(why)
        if isinstance(item, Texts):
            truncated = getattr(self.network, "truncated", None)
            return int(sum(truncated(list(item.texts)))) if truncated else 0
        if isinstance(item, Rows):
            with suppress(Exception, SystemExit):  # told with the set's numbers
                self._rows(self.tasks[item.task], item.picture)
            return []
        return self._look(item) if isinstance(item, Look) else [self._whole(item)]

    def _look(self, item: Look) -> list[Record]:
        """All that is wanted of one picture."""
        try:
            pixels = self._pixels(item.picture.image_id)
        except StoreError as error:
            return [self._failure(about, error) for _, about in item.wanted]
        return [self._score(self.tasks[i], about, item.picture, pixels) for i, about in item.wanted]

    def _score(self, task: Task, about: Record, picture: Picture, pixels: Pixels) -> Record:
        try:
            self._check_source(task, about)
            place = (picture.prompt, picture.canvas, picture.cost, self.network, task.use.view)
            sample = Sample(pixels, *place, image_id=picture.image_id, cache=self.cache, turn=picture.turn)
            found = task.metric.fn(sample, **task.use.params)
            return {**about, "values": [[v.name, v.index, v.value] for v in _declared(task.metric, found)]}
        except StoreError:
            raise
        except (Exception, SystemExit) as error:  # a metric may fail in any way; the record says how
            return self._failure(about, error, task)

    def _whole(self, item: Whole) -> Record:
        task = self.tasks[item.task]
        try:
            self._check_source(task, item.about)
            ours = np.concatenate([self._rows(task, p) for p in item.pictures])
            network, cache = self.network, self.cache
            assert network is not None and cache is not None  # noqa: PT018
            theirs = [r.features(network, task.use.view, cache) for r in item.sets]
            rows = (part.astype(np.float64) for part in (ours, *theirs))
            found = task.metric.fn(*rows, **task.use.params)
            values = {v.name: v.value for v in _declared(task.metric, [Value(k, x) for k, x in found.items()])}
            sizes = {"n": len(item.pictures), "n_rows": len(ours)}
            if item.sets:
                sizes |= {"m": len(item.sets[0].items), "m_rows": len(theirs[0])}
            return {**item.about, **sizes, "values": values}
        except (Exception, SystemExit) as error:
            return self._failure(item.about, error, task)

    def _rows(self, task: Task, picture: Picture) -> np.ndarray:
        """A picture's rows, features or logits; its pixels are read only if the rows are not kept."""
        network, cache = self.network, self.cache
        assert network is not None and cache is not None  # noqa: PT018
        view = score_plan.view_key(task, picture)

        def embed() -> np.ndarray:
            pixels = self.store.open_image(picture.image_id)
            return network.embed(views.cuts(pixels, task.use.view, picture.canvas, picture.drawn_by(task.use.view)))

        def features() -> np.ndarray:
            return cache.get((picture.image_id, view), embed)

        if "logits" not in task.metric.inputs:
            return features()
        return cache.get((picture.image_id, f"logits:{view}"), lambda: network.logits(features()))

    def _check_source(self, task: Task, about: Mapping[str, Any]) -> None:
        if self.apart and task.source != about["metric_source"]:
            raise UsageError(
                f"the source of {task.use.ref} has changed since scoring began; run the same command again"
            )

    def _failure(self, about: Mapping[str, Any], error: BaseException, task: Task | None = None) -> Record:
        # not of kind "failure": those count against the making of a picture
        if device_lost(error):
            raise DeviceLostError(f"the GPU no longer answers in this process ({error}); the same command goes on")
        reason = "oom" if classify(error) == "oom" else "crash"
        said = text_of(error)
        message = said if isinstance(error, ScrollBenchError) else f"{type(error).__name__}: {said}"
        if task and (where := _place(task, error)):
            message = f"metric {task.use.label}, {where}: {message}"
        return {**about, "kind": "score_failure", "reason": reason, "message": message}


class Scorers:
    """Scorers that take turns in one process: the network of one at a time is loaded.

    Args:
        scorers: what items speak of by their places.
    """

    def __init__(self, scorers: tuple[Scorer, ...]) -> None:
        self.scorers = scorers
        self._at: Scorer | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Scorers, (self.scorers,)

    @property
    def device(self) -> str:
        """Where the extractors run."""
        return next((s.device for s in self.scorers if s.ref), "cpu")

    def on(self, device: str) -> Scorers:
        """The same for another device."""
        return Scorers(tuple(s.on(device) for s in self.scorers))

    def ready(self, work: tuple[int, Item]) -> None:
        """As of the scorer whose turn it is."""
        place, item = work
        self._turn(place).ready(item)

    def __call__(self, work: tuple[int, Item]) -> list[Record] | int | Unloaded:
        """As of the scorer whose turn it is."""
        place, item = work
        return self._turn(place)(item)

    def expect(self, work: tuple[int, Item | None]) -> None:
        """As of the scorer whose turn it is."""
        place, item = work
        self._turn(place).expect(item)

    def close(self) -> None:
        """As of the scorer whose turn it was."""
        if self._at:
            self._at.close()

    def _turn(self, place: int) -> Scorer:
        scorer = self.scorers[place]
        if scorer is not self._at:
            self.close()
            self._at = scorer
        return scorer


def _inside(value: float, least: float | None, most: float | None) -> bool:
    """Whether a value is in a range, but for what single precision rounds away."""
    slack = 1e-4 * max(1.0, *(abs(end) for end in (least, most) if end is not None), 0.0)
    return (least is None or value >= least - slack) and (most is None or value <= most + slack)


def _place(task: Task, error: BaseException) -> str:
    """The last line of the metric's own file that an error went through, as ``file:line``; empty if none."""
    own = inspect.getsourcefile(task.metric.fn)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == own]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _declared(metric: Metric, values: Iterable[Value]) -> Iterator[Value]:
    """The values of a metric, checked against what it declares; numbers that are not finite become None."""
    for value in values:
        if value.name not in metric.values:
            raise UsageError(f"metric {metric.name!r} returned {value.name!r}; {near(value.name, metric.values)}")
        defined = value.value is not None and np.isfinite(value.value)
        least, most = metric.range
        ranged = defined and metric.values[value.name] != "none"  # a range is of the numbers that are better or worse
        if ranged and value.value is not None and not _inside(float(value.value), least, most):
            ends = f"{'-inf' if least is None else f'{least:g}'} to {'inf' if most is None else f'{most:g}'}"
            raise UsageError(
                f"metric {metric.name!r} returned {value.name} = {value.value:g}, outside its declared range {ends}; "
                "correct the range that it declares, or the number"
            )
        yield Value(value.name, float(value.value) if defined else None, value.index)  # type: ignore[arg-type]
