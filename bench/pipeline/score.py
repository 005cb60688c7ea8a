"""Scoring: every metric of a suite on every picture there is, each number computed once.

What is in the records already is not computed again, so adding a metric or some pictures costs what is new. Each
extractor is loaded once, and only if something is missing. One failing score is recorded, and the rest goes on.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import extractors, views
from bench.device import choose as choose_device
from bench.errors import DeviceLostError, ScrollBenchError, StoreError, UsageError, near
from bench.metrics.sample import Sample
from bench.pipeline import score_plan
from bench.pipeline.environment import device_lost
from bench.pipeline.maker import classify
from bench.pipeline.score_plan import Picture, ScoreResult, SetJob, Task, Wanted
from bench.progress import Progress
from bench.registry import Metric
from bench.store.features import Features
from bench.store.raster import Raster
from bench.suites.values import measure_name, numbers, seen_by
from bench.types import Value

if TYPE_CHECKING:
    from bench.store import Store
    from bench.store.ledger import Ledger
    from bench.store.records import Record
    from bench.suites.suite import Suite

Pixels = np.ndarray | Raster


def score(suite: Suite, store: Store, progress: Progress | None = None, *, device: str | None = None) -> ScoreResult:
    """Compute what is missing of a suite's scores and record it.

    Args:
        suite: of :func:`bench.suites.load.load_suite`.
        store: where pictures and records are.
        progress: told of the stage ``score``, a unit for every image or set score.
        device: where extractors run; the suite's own, else :func:`bench.device.choose`'s, where None.

    Returns:
        Counts. A metric that fails on one picture is recorded as a ``score_failure``, and the rest goes on.

    Raises:
        UsageError: unknown metrics, extractors, views or references, or ones that do not fit together.
        PrerequisiteError: no metric can run, because weights are missing.
        StoreError: unreadable records, or a store that cannot be written.
    """
    result, ledger = ScoreResult(), store.ledger()
    tasks = score_plan.resolve(suite, result)
    pictures = score_plan.find_pictures(suite, store, ledger, result)
    image_work, again = score_plan.missing_scores(tasks, pictures, ledger, result)
    set_work, sets_again = score_plan.missing_sets(tasks, pictures, ledger, suite, store, result)
    for known in (*again, *sets_again):
        store.append(ledger.replacing(known))
    result.reused, result.sets_reused = result.reused + len(again), result.sets_reused + len(sets_again)
    for column in _columns(suite):
        if not ledger.holds(column):
            store.append(ledger.replacing(column))
    if progress:
        progress.start("score", sum(len(t) for _, t in image_work) + len(set_work))
    for ref in dict.fromkeys(t.use.extractor for t in tasks):
        scorer = _Scorer(ref, suite, store, ledger, result, progress, device)
        mine = [(p, [t for t in wanted if t[0].use.extractor == ref]) for p, wanted in image_work]
        sets = [job for job in set_work if job.task.use.extractor == ref]
        scorer.work([(p, wanted) for p, wanted in mine if wanted], sets)
    if progress:
        progress.finish("score")
    return result


def _columns(suite: Suite) -> Iterator[Record]:
    """What the suite's metrics are called on its board, and how many numbers are tested together there."""
    count = numbers(suite.whole.metrics)
    for use in suite.metrics:
        name, direction = next(iter(use.metric.values.items()))
        least, most = use.metric.range
        yield {
            "kind": "column", "suite_digest": suite.digest, "label": measure_name(use), "name": name,
            "metric": use.metric.name, **seen_by(use), "params": dict(use.params), "direction": direction,
            "numbers": count, "least": least, "most": most,
        }  # fmt: skip


class _Scorer:
    """Does the work of one extractor: loads it once, keeps its features, records what comes out."""

    def __init__(
        self, ref: str | None, suite: Suite, store: Store, ledger: Ledger, result: ScoreResult,
        progress: Progress | None, device: str | None,
    ) -> None:  # fmt: skip
        self.ref, self.suite, self.store, self.result, self.progress = ref, suite, store, result, progress
        self.ledger, self.device = ledger, device or suite.backbone_options.get("device")

    @cached_property
    def network(self) -> extractors.Extractor | None:
        """The loaded extractor; None for metrics of plain pixels."""
        return extractors.load(self.ref, choose_device(self.device)) if self.ref else None

    def work(self, scores: list[Wanted], sets: list[SetJob]) -> None:
        """Compute and record everything; failures of single scores are recorded and passed over."""
        if not scores and not sets:
            return
        tasks = [t for _, wanted in scores for t, _ in wanted] + [job.task for job in sets]
        try:
            network = self.network
        except Exception as error:  # damaged weights fail in many ways; no picture is at fault
            why = f"{self.ref} does not load: {error}"
            self.result.blocked.update({t.use.label: why for t in tasks})
            return
        if network is None:
            self._pictures(scores, None)
            return
        self._note_truncation(scores)
        with Features(self.store.root / "features", network.name, network.digest) as cache:
            self._pictures(scores, cache)
            for job in sets:
                self._set(job, cache)

    def _pictures(self, scores: list[Wanted], cache: Features | None) -> None:
        for picture, wanted in scores:
            self._picture(picture, wanted, cache)

    def _picture(self, picture: Picture, wanted: list[tuple[Task, Record]], cache: Features | None) -> None:
        """All that is wanted of one picture, whose pixels are gone before the next one's are read."""
        try:
            pixels = self.store.open_image(picture.image_id)
        except StoreError as error:
            for task, about in wanted:
                self._failed(task, about, error)
            return
        for task, about in wanted:
            self._score(task, about, picture, pixels, cache)

    def _score(self, task: Task, about: Record, picture: Picture, pixels: Pixels, cache: Features | None) -> None:
        try:
            sample = self._sample(task, picture, pixels, cache)
            found = task.metric.fn(sample, **task.use.params)
            values = [[v.name, v.index, v.value] for v in _declared(task.metric, found)]
            self.store.append(self.ledger.replacing({**about, "values": values}))
        except StoreError:
            raise
        except (Exception, SystemExit) as error:  # a metric may fail in any way; the record says how
            self._failed(task, about, error)
            return
        self.result.scored += 1
        self._advance(f"{task.use.label} {picture.label} {picture.prompt.id}")

    def _set(self, job: SetJob, cache: Features) -> None:
        task, first = job.task, job.pictures[0]
        try:
            ours = np.concatenate([self._rows(task, p, cache) for p in job.pictures])
            assert self.network is not None
            theirs = [r.features(self.network, task.use.view, cache) for r in job.sets]
            rows = (part.astype(np.float64) for part in (ours, *theirs))
            found = task.metric.fn(*rows, **task.use.params)
            values = {v.name: v.value for v in _declared(task.metric, [Value(k, x) for k, x in found.items()])}
            sizes = {"n": len(job.pictures), "n_rows": len(ours)}
            if job.sets:
                sizes |= {"m": len(job.sets[0].items), "m_rows": len(theirs[0])}
            self.store.append(self.ledger.replacing({**job.about, **sizes, "values": values}))
            self.result.sets += 1
        except (Exception, SystemExit) as error:
            self._record_failure(task, job.about, error)
            self.result.sets_failed += 1
        self._advance(f"{task.use.label} {first.label}")

    def _rows(self, task: Task, picture: Picture, cache: Features) -> np.ndarray:
        """A picture's rows, features or logits; its pixels are read only if the rows are not kept."""
        network = self.network
        assert network is not None
        view = score_plan.view_key(task, picture)

        def embed() -> np.ndarray:
            pixels = self.store.open_image(picture.image_id)
            return network.embed(views.cuts(pixels, task.use.view, picture.canvas, picture.drawn_by(task.use.view)))

        def features() -> np.ndarray:
            return cache.get((picture.image_id, view), embed)

        if "logits" not in task.metric.inputs:
            return features()
        return cache.get((picture.image_id, f"logits:{view}"), lambda: network.logits(features()))

    def _sample(self, task: Task, picture: Picture, pixels: Pixels, cache: Features | None) -> Sample:
        place = (picture.prompt, picture.canvas, picture.cost, self.network, task.use.view)
        return Sample(pixels, *place, image_id=picture.image_id, cache=cache, turn=picture.turn)

    def _failed(self, task: Task, about: Record, error: BaseException) -> None:
        self._record_failure(task, about, error)
        self.result.failed += 1
        self._advance(f"{task.use.label} failed")

    def _record_failure(self, task: Task, about: Mapping[str, Any], error: BaseException) -> None:
        # not of kind "failure": those count against the making of a picture
        if device_lost(error):
            raise DeviceLostError(f"the GPU no longer answers in this process ({error}); the same command goes on")
        reason = "oom" if classify(error) == "oom" else "crash"
        message = str(error) if isinstance(error, ScrollBenchError) else f"{type(error).__name__}: {error}"
        if where := _place(task, error):
            message = f"metric {task.use.label}, {where}: {message}"
        record: Record = {**about, "kind": "score_failure", "reason": reason, "message": message}
        self.store.append(record)
        if message not in self.result.notes:
            self.result.notes.append(message)

    def _note_truncation(self, scores: list[Wanted]) -> None:
        truncated = getattr(self.network, "truncated", None)
        texts = sorted({p.prompt.text for p, wanted in scores for t, _ in wanted if t.metric.prompted})
        cut = sum(truncated(texts)) if truncated and texts else 0
        if cut:
            self.result.notes.append(f"{cut} of {len(texts)} prompts are longer than {self.ref} reads and were cut")

    def _advance(self, note: str) -> None:
        if self.progress:
            self.progress.advance("score", 1, note)


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
