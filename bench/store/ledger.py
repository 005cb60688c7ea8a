"""All records, sorted into what work needs to look up. Which of two counts never depends on a clock or on the files.

A record speaks of a slot: a cell of a suite, a recipe's picture, a metric on a picture, a metric on a group of
pictures. One that changes what an earlier one said names it in ``replaces``, and what nobody replaces are the slot's
heads. Usually that is one. Stores that were merged may hold several that do not know of each other: then one of them is
chosen by what they say, the same way whatever the order, and the slot is contested until a run settles it with a record
that replaces them all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bench.ids import digest
from bench.store.records import Record
from bench.store.tables import TABLES
from bench.types import Prompt

Slot = tuple[Any, ...]

PROVENANCE = ("id", "v", "time", "replaces", "run_id")


def member_key(record: Mapping[str, Any]) -> Slot:
    """The cell of a suite a member record speaks of."""
    return tuple(record[f] for f in ("suite", "suite_digest", "part", "label", "prompt_id", "seed"))


def score_slot(record: Mapping[str, Any]) -> Slot:
    """What a score or its failure speaks of: a metric on a picture, with the prompt and turn that it depends on."""
    return (record["image_id"], *(record.get(f) for f in ("prompt_id", "asked", "turn")), *_means(record))


def set_slot(record: Mapping[str, Any]) -> Slot:
    """What a set score or its failure speaks of: a metric on a group of pictures."""
    return (*(record.get(f) for f in ("suite_digest", "part", "label", "group_id")), *_means(record))


def _means(record: Mapping[str, Any]) -> Slot:
    """How a suite names a metric; not its version, its source or what is in the networks and references."""
    params = record.get("params")
    knobs = json.dumps(params, sort_keys=True) if params else ""
    return (record["metric"], record.get("extractor"), record.get("view"), record.get("reference"), knobs)


def group_id(pictures: Iterable[tuple[str, int, str]]) -> str:
    """Identity of the pictures of one part and label: of their prompt ids, seeds and image ids, in any order."""
    return digest(["group", sorted(map(list, pictures))])


def asked_id(prompt: Prompt) -> str:
    """Identity of what a prompt asks for: its text and attributes."""
    return digest(["asked", prompt.text, prompt.attributes])


SLOTS: dict[str, Callable[[Mapping[str, Any]], Slot]] = {
    "member": member_key,
    "image": lambda r: (r["recipe_id"],),
    "score": score_slot,
    "set_score": set_slot,
    "column": lambda r: (r["suite_digest"], r["label"]),
}


def told(record: Record) -> str:
    """All that a record says but when, and what it replaces."""
    return json.dumps({k: v for k, v in record.items() if k not in PROVENANCE}, sort_keys=True)


# What two records of a slot must agree in to be one answer. The smallest answer is chosen; of members the sampler
# comes first, so that contested cells of one label are not drawn from several samplers.
_ANSWERS: dict[str, Callable[[Record], Slot]] = {
    "member": lambda r: (r.get("sampler") or "", r["recipe_id"], told(r)),
    "image": lambda r: (r["image_id"],),
    "score": lambda r: (r["key"],),
    "set_score": lambda r: (r["key"],),
    "column": lambda r: (json.dumps({k: r.get(k) for k in TABLES["board_column"]}, sort_keys=True),),
}


def choose(heads: Sequence[Record]) -> Record:
    """The head that counts, by what it says alone."""
    if len(heads) == 1:
        return heads[0]
    return min(heads, key=lambda r: (_ANSWERS[r["kind"]](r), told(r), r.get("id", "")))


class Ledger:
    """All records as lookup tables.

    Attributes:
        images: recipe id -> image record that counts.
        members: (suite, suite digest, part, label, prompt id, seed) -> member record that counts.
        failures: recipe id -> its failure records, in no order.
        scored: key -> score or set score record, replaced ones too: a number that is known.
        score_failures: the records of scores that failed and were not made good.
        runs: run id -> its records merged, with the times ``started`` and ``finished`` (None: not proven to be over).
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.failures: dict[str, list[Record]] = {}
        self.scored: dict[str, Record] = {}
        self._said: dict[str, dict[Slot, list[Record]]] = {kind: {} for kind in SLOTS}
        self._failed: dict[str, dict[Slot, list[Record]]] = {"score": {}, "set_score": {}}
        runs: dict[str, list[Record]] = {}
        for record in records:
            kind = record["kind"]
            if kind in SLOTS:
                self._said[kind].setdefault(SLOTS[kind](record), []).append(record)
            if kind in ("score", "set_score"):
                known = self.scored.setdefault(record["key"], record)
                self.scored[record["key"]] = known if known is record else choose([known, record])
            elif kind == "score_failure":
                of = "score" if record.get("image_id") else "set_score"
                self._failed[of].setdefault(SLOTS[of](record), []).append(record)
            elif kind == "failure":
                self.failures.setdefault(record["recipe_id"], []).append(record)
            elif kind == "run":
                runs.setdefault(record["run_id"], []).append(record)
        self.runs = {run_id: _run(said) for run_id, said in runs.items()}
        self.images = {slot[0]: choose(self.heads("image", slot)) for slot in self._said["image"]}
        self.members = {slot: choose(self.heads("member", slot)) for slot in self._said["member"]}
        self.score_failures = [r for kind, failed in self._failed.items() for s in failed for r in self._open(kind, s)]

    def slots(self, kind: str) -> Iterable[Slot]:
        """All slots of a kind (of ``SLOTS``)."""
        return self._said[kind].keys()

    def heads(self, kind: str, slot: Slot) -> list[Record]:
        """The records of a slot that nobody replaces."""
        said = self._said[kind].get(slot, [])
        if len(said) < 2:
            return said
        gone = _replaced(said)
        return [r for r in said if r["id"] not in gone] or said

    def contested(self, kind: str, slot: Slot) -> bool:
        """Whether the heads of a slot say different things."""
        heads = self.heads(kind, slot)
        return len(heads) > 1 and len({_ANSWERS[kind](r) for r in heads}) > 1

    def holds(self, record: Mapping[str, Any]) -> bool:
        """Whether the slot of a record (which need not be kept) holds what it says, and nothing else."""
        answer = _ANSWERS[record["kind"]]
        heads = self.heads(record["kind"], SLOTS[record["kind"]](record))
        return bool(heads) and {answer(r) for r in heads} == {answer(dict(record))}

    def replacing(self, record: Mapping[str, Any]) -> Record:
        """A record as it is to be appended: it replaces the heads of its slot and the failures that it makes good."""
        kind, slot = record["kind"], SLOTS[record["kind"]](record)
        failures = self._open(kind, slot) if kind in self._failed else []
        gone = sorted(r["id"] for r in (*self.heads(kind, slot), *failures))
        bare = {k: v for k, v in record.items() if k not in ("id", "v", "time", "replaces")}
        return {**bare, "replaces": gone} if gone else bare

    def attempts(self, recipe_id: str) -> int:
        """Failed attempts that count against a recipe: a missing prerequisite is not the recipe's fault."""
        failed = self.failures.get(recipe_id)
        return sum(r["reason"] != "prerequisite" for r in failed) if failed else 0

    def _open(self, kind: str, slot: Slot) -> list[Record]:
        """The failures of a slot that no score made good."""
        failed = self._failed[kind].get(slot, [])
        gone = _replaced(self._said[kind].get(slot, ())) if failed else set()
        return [r for r in failed if r["id"] not in gone and r["key"] not in self.scored]


def _replaced(said: Iterable[Record]) -> set[str]:
    return {i for r in said for i in r.get("replaces") or ()}


def _run(said: Sequence[Record]) -> Record:
    """A run's records merged: what says that it is over stands above what says that it began."""
    ordered = sorted(said, key=lambda r: (r["status"] != "started", told(r)))
    over = ordered[-1]["time"] if ordered[-1]["status"] != "started" else None
    merged = {k: v for r in ordered for k, v in r.items()}
    return {**merged, "started": ordered[0]["time"], "finished": over}
