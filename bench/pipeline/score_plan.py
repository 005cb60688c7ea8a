"""What scoring has to do: a suite's metrics, the pictures there are, and the keys of what is missing.

A score's key is the digest of everything that decides it: picture, metric with its version and source, knobs,
extractor, view, and the prompt where the metric reads it. Pictures are found through the records alone: nothing here
can load a generator.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from bench import extractors, views
from bench.errors import PrerequisiteError, ScrollBenchError, UsageError, near
from bench.extractors import locate
from bench.ids import digest
from bench.metrics.sample import Sample
from bench.pipeline.references import Item, Reference, load_reference, of_pictures
from bench.registry import Metric
from bench.source import source_digest
from bench.store.ledger import Slot, asked_id, group_id, score_slot
from bench.suites import uses
from bench.suites.natives import natives
from bench.types import Canvas, Cost, Prompt

if TYPE_CHECKING:
    from bench.store import Store
    from bench.store.ledger import Ledger
    from bench.store.records import Record
    from bench.suites.suite import Suite
    from bench.suites.values import MetricUse


@dataclass(frozen=True, eq=False)
class Task:
    """One metric of a suite and the identity of the network it looks through."""

    use: MetricUse
    found: locate.Found | None

    def __reduce__(self) -> tuple[Any, ...]:  # elsewhere the network is looked for there
        return _task, (self.use,)

    @property
    def metric(self) -> Metric:
        """What is computed."""
        return self.use.metric

    @cached_property
    def source(self) -> str:
        """Digest of the source that turns crops and features into the numbers."""
        return source_digest(self.metric.fn, Sample if self.metric.scope == "image" else Reference)

    @property
    def protocol(self) -> dict[str, Any]:
        """What a record says about how its numbers were made."""
        return {
            "metric": self.metric.name, "metric_version": self.metric.version, "metric_source": self.source,
            "params": dict(self.use.params),
            "extractor": self.found.name if self.found else None,
            "extractor_digest": self.found.digest if self.found else None, "view": self.use.view,
        }  # fmt: skip


def _task(use: MetricUse) -> Task:
    return Task(use, extractors.find(use.extractor) if use.extractor else None)


@dataclass(frozen=True)
class Picture:
    """A finished picture and the cell of the suite it belongs to."""

    image_id: str
    recipe_id: str
    part: str
    label: str
    seed: int
    prompt: Prompt
    canvas: Canvas
    cost: Cost | None
    turn: int  # its place in the cell, whatever is missing of it
    asked: str  # identity of what its prompt asks for
    backbone: str | None

    def drawn_by(self, view: str) -> str:
        """What the place of a drawn view depends on."""
        return views.drawn_by(view, self.prompt.id, self.turn)


@dataclass(frozen=True, eq=False)
class SetJob:
    """A set metric to compute on the pictures of one part and method, with the sets it is handed beside them."""

    task: Task
    pictures: tuple[Picture, ...]
    sets: tuple[Reference, ...]
    about: Record  # what its record says beside its numbers


@dataclass
class ScoreResult:
    """What :func:`score` did.

    Attributes:
        scored, reused, failed: image scores computed now, there already (or shared with an equal picture), and not
            computable (recorded with their reason and tried again next time). One score is one metric on one picture.
        sets, sets_reused, sets_failed: the same for set scores, one a metric, part and method.
        waiting: pictures the suite wants that are not there yet.
        blocked: metrics that could not run at all, with the reason and the command that helps.
        notes: what a reader of the numbers ought to know, e.g. how many prompts were truncated.
    """

    scored: int = 0
    reused: int = 0
    failed: int = 0
    sets: int = 0
    sets_reused: int = 0
    sets_failed: int = 0
    waiting: int = 0
    blocked: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def resolve(suite: Suite, result: ScoreResult) -> list[Task]:
    """The suite's metrics with their networks located. What lacks its weights goes to ``result.blocked``."""
    tasks = []
    for use in suite.metrics:
        _check_use(use, suite)
        try:
            tasks.append(Task(use, extractors.find(use.extractor) if use.extractor else None))
        except PrerequisiteError as error:
            result.blocked[use.label] = str(error)
    if result.blocked and not tasks:
        raise PrerequisiteError("\n".join(dict.fromkeys(result.blocked.values())))
    return tasks


def _check_use(use: MetricUse, suite: Suite) -> None:
    for part in suite.parts:
        views.boxes(use.view, part.canvas)  # refuses unknown views, and rings on canvases that do not loop
    if use.extractor:  # image metrics need their role; a distance between sets takes any network that embeds pictures
        role = extractors.role(use.extractor)
        embedding = use.metric.scope == "set" and "logits" not in use.metric.inputs
        fitting = ("inception", "dino", "clip") if embedding else (use.metric.extractor,)
        if role not in fitting:
            wanted = " or ".join(str(r) for r in fitting)
            raise UsageError(f"metric {use.label!r} needs an extractor of role {wanted}, {use.extractor!r} is {role}")
    if "reference" in use.metric.inputs and use.reference not in suite.references:
        known = near(str(use.reference), suite.references)
        raise UsageError(f"metric {use.label!r}: no reference {use.reference!r} in suite {suite.ref}; {known}")


def find_pictures(suite: Suite, store: Store, ledger: Ledger, result: ScoreResult) -> list[Picture]:
    """The suite's finished pictures as the records have them, in its order; the others are counted as waiting."""
    try:
        labels = [m.label for m in suite.methods]
    except ScrollBenchError as error:  # a method that is not installed here is no obstacle to scoring its pictures
        labels = sorted({m["label"] for m in ledger.members.values() if m["suite_digest"] == suite.digest})
        result.notes.append(f"scoring every recorded method of the suite, because its methods do not load: {error}")
    adopted = {m["label"] for m in ledger.members.values() if m["suite_digest"] == suite.digest and m.get("adopted")}
    found = []
    asked = {id(prompt): asked_id(prompt) for part in suite.parts for prompt in part.prompts.prompts}
    for label in dict.fromkeys([*labels, *sorted(adopted)]):
        for part in suite.parts:
            for s, seed in enumerate(suite.seeds):
                for i, prompt in enumerate(part.prompts.prompts):
                    member = ledger.members.get((suite.ref, suite.digest, part.name, label, prompt.id, seed), {})
                    image = ledger.images.get(member.get("recipe_id", ""))
                    if image is None or not store.has_image(image["image_id"]):
                        result.waiting += bool(member) or label not in adopted  # of these only what was brought
                        continue
                    cost = Cost(**image["cost"]) if image.get("cost") else None
                    place = (image["image_id"], image["recipe_id"], part.name, label, seed)
                    turn, backbone = s * len(part.prompts.prompts) + i, image["recipe"].get("backbone")
                    found.append(Picture(*place, prompt, part.canvas, cost, turn, asked[id(prompt)], backbone))
    return found


# A picture, and the metrics it lacks, each with what its record will say beside its numbers.
Wanted = tuple[Picture, list[tuple[Task, "Record"]]]


def missing_scores(
    tasks: list[Task], pictures: list[Picture], ledger: Ledger, result: ScoreResult
) -> tuple[list[Wanted], list[Record]]:
    """The image scores that the records do not hold, by picture; and those to be said again.

    The second are known numbers that another source of the metric has replaced since, or that merged records tell of
    in two ways: they are not computed again.
    """
    work: list[Wanted] = []
    again: list[Record] = []
    seen: set[Slot] = set()
    for picture in pictures:
        new: list[tuple[Task, Record]] = []
        for task in (t for t in tasks if t.metric.scope == "image"):
            about = about_score(task, picture)
            slot = score_slot(about)
            if slot in seen or ledger.holds(about):  # equal pictures of two cells share their scores
                result.reused += 1
            elif about["key"] in ledger.scored:
                again.append({**ledger.scored[about["key"]], **about})
            else:
                new.append((task, about))
            seen.add(slot)
        if new:
            work.append((picture, new))
    return work, again


def missing_sets(
    tasks: list[Task], pictures: list[Picture], ledger: Ledger, suite: Suite, store: Store, result: ScoreResult
) -> tuple[list[SetJob], list[Record]]:
    """The set scores that the records do not hold for the very pictures there are now; and those to be said again."""
    again: list[Record] = []
    references: dict[str, Reference] = {}
    gone = {u.label for u in uses.references(suite)}
    cells = [list(group) for _, group in groupby(sorted(pictures, key=_cell), key=_cell)]
    work = []
    for task in (t for t in tasks if t.metric.scope == "set"):
        for cell in cells:
            wanted = {"reference": str(task.use.reference), "base": f"base-{cell[0].backbone}"}
            names = [wanted[i] for i in task.metric.inputs if i in wanted]
            if absent := [n for n in names if n in gone or n not in suite.references]:
                result.notes.append(f"{task.use.label} {cell[0].label}: there is no reference {absent[0]!r}")
                continue
            try:
                references |= {n: reference(n, suite, store, ledger) for n in names if n not in references}
            except PrerequisiteError as error:
                result.notes.append(f"{task.use.label} {cell[0].label}: {error}")
                continue
            sets = tuple(references[n] for n in names)
            about = about_set(task, cell, suite, reference_id(task, sets) or None)
            if ledger.holds(about):
                result.sets_reused += 1
            elif about["key"] in ledger.scored:
                again.append({**ledger.scored[about["key"]], **about})
            else:
                work.append(SetJob(task, tuple(cell), sets, about))
    return work, again


def reference(name: str, suite: Suite, store: Store, ledger: Ledger | None = None) -> Reference:
    """A reference set of a suite. ``ledger`` saves reading the records again.

    Raises:
        PrerequisiteError: a set of native squares of which none is made yet.
        UsageError: what :func:`bench.pipeline.references.load_reference` refuses.
    """
    if (squares := natives(suite).get(name)) is None:
        return load_reference(name, suite.references[name], store.root)
    items = {  # parts that ask for the same prompts share their squares
        p.recipe_id: Item(p.image_id, p.canvas, f"{p.prompt.id}/{p.seed}", partial(store.read_image, p.image_id))
        for p in find_pictures(squares, store, ledger or store.ledger(), ScoreResult())
    }
    if not items:
        raise PrerequisiteError(
            f"no picture of reference {name!r} is made yet. Make them:\n  scrollbench generate {suite.command}"
        )
    return of_pictures(name, suite.references[name], items.values(), store.root)


def reference_id(task: Task, sets: Iterable[Reference]) -> str:
    """Identity of the sets that a task is handed beside the pictures, through its view."""
    return "+".join(r.id_through(task.use.view) for r in sets)


def _cell(picture: Picture) -> tuple[str, str]:
    return picture.part, picture.label


def about_score(task: Task, picture: Picture) -> Record:
    """What the record of a score says beside its numbers: what it is of, and how it comes about."""
    prompted, view = task.metric.prompted, views.parse(task.use.view)[0]
    return {
        "kind": "score", "key": score_key(task, picture), "image_id": picture.image_id, "recipe_id": picture.recipe_id,
        **task.protocol,
        # where equal pictures of two prompts get different numbers
        "prompt_id": picture.prompt.id if prompted or view in views.DRAWN else None,
        "asked": picture.asked if prompted else None, "turn": picture.turn if view in views.BY_TURN else None,
    }  # fmt: skip


def about_set(task: Task, cell: Sequence[Picture], suite: Suite, reference_id: str | None) -> Record:
    """What the record of a set score says beside its numbers."""
    part, label = _cell(cell[0])
    return {
        "kind": "set_score", "key": set_key(task, cell, suite.digest, reference_id or ""), "suite": suite.ref,
        "suite_digest": suite.digest, "part": part, "label": label,
        "group_id": group_id((p.prompt.id, p.seed, p.image_id) for p in cell), **task.protocol,
        "reference": task.use.reference, "reference_id": reference_id,
    }  # fmt: skip


def score_key(task: Task, picture: Picture) -> str:
    """Identity of one metric's numbers on one picture."""
    asked = [picture.prompt.text, dict(picture.prompt.attributes)] if task.metric.prompted else None
    return digest(["score", picture.image_id, _how(task), view_key(task, picture), asked])


def set_key(task: Task, pictures: Iterable[Picture], suite_digest: str, reference_id: str) -> str:
    """Identity of one set metric's numbers on the pictures of one part and method of a suite."""
    members = sorted([*_cell(p), p.image_id, view_key(task, p)] for p in pictures)
    return digest(["set_score", suite_digest, _how(task), members, reference_id])


def _how(task: Task) -> list[Any]:
    network = task.found.digest if task.found else None
    return [task.metric.name, task.metric.version, task.source, dict(task.use.params), network]


def view_key(task: Task, picture: Picture) -> str:
    """Identity of where a task looks on a picture."""
    return views.key(task.use.view, picture.canvas, picture.drawn_by(task.use.view))
