"""Scoring: every metric of a suite on every picture there is, each number computed once.

What is in the records already is not computed again, so adding a metric or some pictures costs what is new. Each
extractor is loaded once (in each worker), and only if something is missing. One failing score is recorded, and the
rest goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError
from bench.pipeline import score_plan
from bench.pipeline.executors.children import Lost
from bench.pipeline.executors.choose import WORKERS, chosen
from bench.pipeline.executors.crew import LOCAL, Crew
from bench.pipeline.executors.patience import LEAST, LOADING, MEGAPIXEL
from bench.pipeline.score_plan import ScoreResult, SetJob, Task, Wanted
from bench.pipeline.scorer import Item, Keep, Look, Rows, Scorer, Scorers, Texts, Unloaded, Whole
from bench.progress import Progress
from bench.suites.values import measure_name, numbers, seen_by

if TYPE_CHECKING:
    from bench.store import Store
    from bench.store.ledger import Ledger
    from bench.store.records import Record
    from bench.suites.suite import Suite

LOSSES = 3  # workers that a metric may end before it is left alone


def score(
    suite: Suite, store: Store, progress: Progress | None = None, *, device: str | None = None, crew: Crew = LOCAL
) -> ScoreResult:
    """Compute what is missing of a suite's scores and record it.

    Args:
        suite: of :func:`bench.suites.load.load_suite`.
        store: where pictures and records are.
        progress: told of the stage ``score``, a unit for every image or set score.
        device: where extractors run; the suite's own, else :func:`bench.device.choose`'s, where None.
        crew: who does it: this process, or children of it. The numbers are the same.

    Returns:
        Counts. A metric that fails on one picture is recorded as a ``score_failure``, and the rest goes on.

    Raises:
        UsageError: unknown metrics, extractors, views or references, or ones that do not fit together.
        PrerequisiteError: no metric can run, because weights are missing.
        StoreError: unreadable records, or a store that cannot be written.
    """
    result, ledger = ScoreResult(), store.ledger()
    executor = chosen(crew, (ref for m in suite.spec.metrics for ref in (m.ref, m.extractor)))
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
    place = device or suite.backbone_options.get("device")
    refs = dict.fromkeys(t.use.extractor for t in tasks)
    scorers = [Scorer(ref, store, place, tuple(t for t in tasks if t.use.extractor == ref)) for ref in refs]
    for team in _teams(scorers if image_work or set_work else ()):
        with _Hands(team, crew, executor) as hands:
            for turn, scorer in enumerate(team):
                scores = [(p, [t for t in wanted if t[0].use.extractor == scorer.ref]) for p, wanted in image_work]
                work = _Work(scorer, hands, turn, ledger, result, progress)
                work.do([s for s in scores if s[1]], [job for job in set_work if job.task in scorer.tasks])
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


def _teams(scorers: Iterable[Scorer]) -> Iterator[tuple[Scorer, ...]]:
    """Scorers that share processes; one with a plug-in file has its own, which end with all that it did to them."""
    shared: list[Scorer] = []
    for scorer in scorers:
        if any(".py@" in str(ref) for task in scorer.tasks for ref in (task.use.ref, task.use.extractor)):
            yield (scorer,)
        else:
            shared.append(scorer)
    if shared:
        yield tuple(shared)


class _Hands:
    """What does the items of a team: its scorers in this process, or copies of them in others."""

    def __init__(self, team: tuple[Scorer, ...], crew: Crew, executor: str) -> None:
        self.crew, self.here = crew, Scorers(team)
        self.workers = None if executor == "local" else WORKERS[executor](self.here, crew)

    def __enter__(self) -> _Hands:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.workers:
            self.workers.__exit__(*error)
        self.here.close()

    def do(self, turn: int, items: Iterable[Any], most: int | None = None) -> Iterator[tuple[Any, Any]]:
        """Items of the scorer whose turn it is, each with its answer; by ``most`` hands at a time."""
        if not self.workers:
            return self._do_here(turn, iter(items))
        works = ((turn, item) for item in items)
        return ((item, answer) for (_, item), answer in self.workers.work(works, self._limit, most))

    def _do_here(self, turn: int, items: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        item = next(items, None)
        while item is not None:
            following = next(items, None)
            self.here.expect((turn, following))
            yield item, self.here((turn, item))
            item = following

    def keep(self, turn: int) -> None:
        """What any hand saw is on disk from here on."""
        if self.workers:
            self.workers.all((turn, Keep()), LOADING)

    def _limit(self, work: tuple[int, Item]) -> float:
        item = work[1]
        if not isinstance(item, Look | Rows):
            return LOADING
        canvas = item.picture.canvas
        return self.crew.timeout or LEAST + MEGAPIXEL * canvas.width * canvas.height / 2**20


class _Work:
    """The work of one scorer: handed out, and recorded as it comes back."""

    def __init__(
        self, scorer: Scorer, hands: _Hands, turn: int, ledger: Ledger, result: ScoreResult, progress: Progress | None
    ) -> None:
        self.scorer, self.hands, self.turn = scorer, hands, turn
        self.ledger, self.result, self.progress = ledger, result, progress
        self.places = {id(task): i for i, task in enumerate(scorer.tasks)}
        self.losses: Counter[int] = Counter()

    def do(self, scores: list[Wanted], sets: list[SetJob]) -> None:
        """Compute and record everything; failures of single scores are recorded and passed over."""
        looks = [Look(p, tuple((self.places[id(t)], about) for t, about in wanted)) for p, wanted in scores]
        wholes = [Whole(self.places[id(j.task)], j.pictures, j.sets, j.about) for j in sets]
        if not (looks or wholes) or not self._note_truncation(scores):
            return
        alone: list[Look] = []
        for items in (looks, alone):  # of several scores that were lost together one is at fault
            for look, answer in self.hands.do(self.turn, self._standing(items)):
                self._looked(look, answer, alone)
        if wholes and self.hands.workers:
            self._warm(self.hands.do(self.turn, (Rows(w.task, p) for w in wholes for p in w.pictures)))
            self.hands.keep(self.turn)
        for whole, answer in self.hands.do(self.turn, wholes, most=1):
            self._keep([whole.about], answer, [whole.task], f"{whole.pictures[0].label}")

    def _note_truncation(self, scores: list[Wanted]) -> bool:
        """Whether the network loads; and how many prompts it cuts, noted."""
        texts = sorted({p.prompt.text for p, wanted in scores for t, _ in wanted if t.metric.prompted})
        ((_, answer),) = self.hands.do(self.turn, [Texts(tuple(texts))])
        if isinstance(answer, Unloaded | Lost):
            ref = self.scorer.ref
            why = answer.why if isinstance(answer, Unloaded) else f"{ref} does not load: it {answer.message}"
            self.result.blocked.update({t.use.label: why for t in self.scorer.tasks})
            return False
        if answer:
            cut = f"{answer} of {len(texts)} prompts are longer than {self.scorer.ref} reads and were cut"
            self.result.notes.append(cut)
        return True

    def _warm(self, answers: Iterator[tuple[Any, Any]]) -> None:
        """Rows of set metrics by all workers, unless they are lost on them: the set's own number will say so."""
        lost = 0
        for _, answer in answers:
            lost += isinstance(answer, Lost)
            if lost == LOSSES:
                return

    def _standing(self, looks: Iterable[Look]) -> Iterator[Look]:
        """Looks without the metrics that have ended too many workers."""
        for look in looks:
            wanted = tuple(w for w in look.wanted if self.losses[w[0]] < LOSSES)
            if wanted:
                yield look if len(wanted) == len(look.wanted) else Look(look.picture, wanted)

    def _looked(self, look: Look, answer: Any, alone: list[Look]) -> None:
        if isinstance(answer, Lost) and len(look.wanted) > 1:
            alone += [Look(look.picture, (w,)) for w in look.wanted]
            return
        about = f"{look.picture.label} {look.picture.prompt.id}"
        self._keep([a for _, a in look.wanted], answer, [i for i, _ in look.wanted], about)

    def _keep(self, abouts: list[Record], answer: Any, tasks: list[int], note: str) -> None:
        """Record what came of scores, one for each task."""
        if isinstance(answer, Lost):
            lost = {"kind": "score_failure", "reason": answer.reason, "message": answer.message}
            answer = [{**about, **lost} for about in abouts]
            for i in tasks:
                self.losses[i] += 1
                if self.losses[i] == LOSSES:
                    task: Task = self.scorer.tasks[i]
                    self.result.blocked[task.use.label] = (
                        f"left alone after {LOSSES} workers: it {answer[0]['message']}"
                    )
        for about, record, i in zip(abouts, answer, tasks, strict=True):
            label = self.scorer.tasks[i].use.label
            if record["kind"] != "score_failure":
                try:
                    self.scorer.store.append(self.ledger.replacing(record))
                except UsageError as error:  # numbers that no record can hold
                    record = {**about, "kind": "score_failure", "reason": "crash", "message": str(error)}
            self._count(about["kind"], record)
            if self.progress:
                failed = record["kind"] == "score_failure"
                self.progress.advance("score", 1, f"{label} failed" if failed else f"{label} {note}")

    def _count(self, kind: str, record: Record) -> None:
        result, of_set = self.result, kind == "set_score"
        if record["kind"] != "score_failure":
            result.sets, result.scored = result.sets + of_set, result.scored + (not of_set)
            return
        self.scorer.store.append(record)
        result.sets_failed, result.failed = result.sets_failed + of_set, result.failed + (not of_set)
        if record["message"] not in result.notes:
            result.notes.append(record["message"])
