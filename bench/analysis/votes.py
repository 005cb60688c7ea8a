"""What people preferred: votes of blind pairs, checked, merged, turned into strengths and held against the numbers.

A file of votes is CSV as the report's page Vote writes it. Voters who do not look are told by three signs: checks whose
answer is known, pairs asked twice, and how often they agree with the others.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.analysis.columns import measures
from bench.analysis.samplers import labelled, values
from bench.errors import ScrollBenchError, UsageError, near
from bench.reading import read_text, refuse
from bench.stats.intervals import bounds, finite
from bench.stats.strengths import FIRST, SECOND, TIE, Strengths, bradley_terry

if TYPE_CHECKING:
    from bench.store import Store
    from bench.suites.suite import Suite

COLUMNS = ("suite", "suite_digest", "voter", "trial", "kind", "part", "prompt_id", "seed", "left", "right", "vote",
           "seconds", "time")  # fmt: skip
KINDS = ("pair", "again", "check")
ANSWERS = {"left": FIRST, "right": SECOND, "tie": TIE}
SPOILED = "spoiled"  # the side of a check that nobody should prefer
PASSED = 0.75  # of a voter's checks that must be right
ODD = 3.0  # standard deviations below what the others' strengths expect of a voter


@dataclass(frozen=True)
class Vote:
    """One answer. ``kind``: ``pair``, ``again`` (a pair asked a second time), ``check`` (one side is spoiled)."""

    voter: str
    trial: int
    kind: str
    part: str
    prompt_id: str
    seed: int
    left: str
    right: str
    vote: str
    suite_digest: str

    @property
    def prompt(self) -> tuple[str, str]:
        """What clusters votes: the prompt on its part."""
        return self.part, self.prompt_id

    @property
    def preferred(self) -> str:
        """The method voted for; empty for a tie."""
        return {"left": self.left, "right": self.right}.get(self.vote, "")


@dataclass(frozen=True)
class Voter:
    """How one person voted, and why the votes are left out; ``doubts`` is empty where they count.

    Attributes:
        checks, right: checks answered, and rightly.
        again, same: pairs asked twice, and answered as before.
        surprise: standard deviations by which agreement with the others exceeds what their strengths expect; None
            where the others' votes give no strengths.
    """

    name: str
    votes: int
    checks: int
    right: int
    again: int
    same: int
    surprise: float | None
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Agreement:
    """How often a number prefers what people prefer: share of votes that were no tie, half where it ties itself.

    The interval is of the mean over prompts; ``theme`` is empty over all prompts.
    """

    metric: str
    theme: str
    share: float
    low: float | None
    high: float | None
    prompts: int
    votes: int


@dataclass(frozen=True)
class Verdict:
    """What votes say: voters, strengths (None with the reason in ``note``), agreement of each number."""

    voters: tuple[Voter, ...]
    votes: int
    strengths: Strengths | None
    agreement: tuple[Agreement, ...]
    note: str = ""


def read_votes(files: Iterable[Path], suite: Suite | None = None) -> list[Vote]:
    """Read and merge files of votes; the same vote in two files counts once.

    Args:
        suite: what the votes must be on, where it is known.

    Raises:
        UsageError: what is wrong, with file and line: columns, answers, names that the suite has not, two answers to
            one trial.
    """
    found: dict[tuple[str, str, int], tuple[Vote, str]] = {}
    problems: list[str] = []
    for file in files:
        rows = csv.DictReader(io.StringIO(read_text(file, "file of votes"), newline=""))
        if lacking := [c for c in COLUMNS if c not in (rows.fieldnames or ())]:
            problems.append(f"{file}: expected the columns {', '.join(COLUMNS)}; {', '.join(lacking)} are not there")
            continue
        for row in rows:
            where = f"{file}, line {rows.line_num}"
            try:
                vote = _vote(row, where, suite)
            except UsageError as error:
                problems.append(str(error))
                continue
            key = vote.suite_digest, vote.voter, vote.trial
            before, place = found.setdefault(key, (vote, where))
            if before != vote:
                problems.append(f"{where}: {vote.voter!r} answered trial {vote.trial} otherwise in {place}; keep one")
    refuse(problems)
    return [vote for vote, _ in found.values()]


def _vote(row: Mapping[str, Any], where: str, suite: Suite | None) -> Vote:
    if None in row or None in row.values():
        raise UsageError(f"{where}: expected {len(COLUMNS)} cells")
    for field, allowed in (("kind", KINDS), ("vote", tuple(ANSWERS))):
        if row[field] not in allowed:
            raise UsageError(f"{where}: {field} {row[field]!r}; {near(row[field], allowed)}")
    for field in ("trial", "seed"):
        if not row[field].isascii() or not row[field].isdecimal() or len(row[field]) > 18:
            raise UsageError(f"{where}: {field} takes a whole number, got {row[field]!r}")
    vote = Vote(
        row["voter"], int(row["trial"]), row["kind"], row["part"], row["prompt_id"], int(row["seed"]), row["left"],
        row["right"], row["vote"], row["suite_digest"],
    )  # fmt: skip
    if not vote.voter or vote.left == vote.right:
        raise UsageError(f"{where}: expected a voter and two different sides")
    if (vote.kind == "check") != (SPOILED in (vote.left, vote.right)):
        raise UsageError(f"{where}: one side of a check, and of nothing else, is {SPOILED!r}")
    if suite is None:
        return vote
    if vote.suite_digest != suite.digest:
        raise UsageError(
            f"{where}: expected votes on {suite.ref} ({suite.digest[:8]}), "
            f"got one on {row['suite']} ({vote.suite_digest[:8]})"
        )
    prompts = {(p.name, q.id) for p in suite.parts for q in p.prompts.prompts}
    if vote.prompt not in prompts:
        raise UsageError(f"{where}: {suite.ref} has no prompt {vote.prompt_id!r} on part {vote.part!r}")
    return vote


# -- who counts


def judge_voters(votes: Sequence[Vote]) -> list[Voter]:
    """Every voter with the reasons for which the votes are left out.

    Surprise is asked in rounds, the oddest voter leaving first, so that one cheater does not make others look odd.
    """
    voters = {
        name: _attention(name, [v for v in votes if v.voter == name]) for name in sorted({v.voter for v in votes})
    }
    counted = [name for name, v in voters.items() if not v.doubts]
    while True:
        odd = {name: _surprise(name, [v for v in votes if v.voter in counted or v.voter == name]) for name in voters}
        voters = {name: replace(v, surprise=odd[name]) for name, v in voters.items()}
        strange = {name: s for name in counted if (s := odd[name]) is not None and s < -ODD}
        if not strange:
            return list(voters.values())
        worst = min(strange, key=lambda name: strange[name])
        counted.remove(worst)
        why = f"agrees with the others {-strange[worst]:.1f} standard deviations less than expected"
        voters[worst] = replace(voters[worst], doubts=(*voters[worst].doubts, why))


def _attention(name: str, mine: Sequence[Vote]) -> Voter:
    checks = [v for v in mine if v.kind == "check"]
    right = sum(bool(v.preferred) and v.preferred != SPOILED for v in checks)
    first = {(v.prompt, v.seed, frozenset((v.left, v.right))): v for v in mine if v.kind == "pair"}
    twice = [(v, first.get((v.prompt, v.seed, frozenset((v.left, v.right))))) for v in mine if v.kind == "again"]
    pairs = [(v, before) for v, before in twice if before]
    same = sum(v.preferred == before.preferred for v, before in pairs)
    answers = [v.vote for v in mine]
    doubts = []
    if checks and right < PASSED * len(checks):
        doubts.append(f"{right} of {len(checks)} checks right")
    if len(answers) >= 10 and len(set(answers)) == 1:
        doubts.append(f"always {answers[0]}")
    return Voter(name, len(mine), len(checks), right, len(pairs), same, None, tuple(doubts))


def _surprise(name: str, votes: Sequence[Vote]) -> float | None:
    """Votes won by the method voted for, against what strengths by the other voters expect of their own votes."""
    mine = [v for v in votes if v.voter == name and v.kind == "pair"]
    try:
        others = _strengths([v for v in votes if v.voter != name], clustered=False)
    except UsageError:
        return None
    known = {s.name for s in others.each}
    seen, expected, spread = 0.0, 0.0, 0.0
    for v in mine:
        if v.left not in known or v.right not in known:
            continue
        first, second, tie = others.chance(v.left, v.right)
        total = first + second
        likely = max(first, second) / total
        favourite = v.left if first >= second else v.right
        gained = 0.5 if v.vote == "tie" else float(v.preferred == favourite)
        seen += gained
        expected += tie * 0.5 + (1 - tie) * likely
        spread += tie * 0.25 + (1 - tie) * likely - (tie * 0.5 + (1 - tie) * likely) ** 2
    return float((seen - expected) / np.sqrt(spread)) if spread > 0 else None


def _strengths(votes: Sequence[Vote], clustered: bool = True) -> Strengths:
    pairs = [v for v in votes if v.kind == "pair"]
    clusters: list[list[Any]] = [[v.prompt for v in pairs], [v.voter for v in pairs]] if clustered else []
    return bradley_terry([v.left for v in pairs], [v.right for v in pairs], [ANSWERS[v.vote] for v in pairs], clusters)


# -- what they say


def weigh(votes: Sequence[Vote], suite: Suite | None = None, store: Store | None = None) -> Verdict:
    """Strengths by the voters who count and, with a suite and a store, each number's agreement with them, by theme.

    Pairs asked a second time are not counted twice.
    """
    voters = judge_voters(votes)
    left_out = {v.name for v in voters if v.doubts}
    counted = [v for v in votes if v.voter not in left_out and v.kind == "pair"]
    try:
        strengths, note = _strengths(counted), ""
    except UsageError as error:
        strengths, note = None, str(error)
    agreement = _agreements(counted, suite, store) if suite is not None and store is not None else []
    return Verdict(tuple(voters), len(counted), strengths, tuple(agreement), note)


def _agreements(votes: Sequence[Vote], suite: Suite, store: Store) -> list[Agreement]:
    wanted = [m for m in measures(suite) if not m.of_set]
    numbers = {}
    for label in sorted({name for v in votes for name in (v.left, v.right)}):
        try:
            numbers[label] = values(labelled(store, suite, label), wanted)
        except ScrollBenchError:  # votes on a method that this store has not: no number to agree
            continue
    themes = {(p.name, q.id): str(q.attributes.get("theme") or "") for p in suite.parts for q in p.prompts.prompts}
    found = []
    for measure in wanted:
        if measure.direction == "none":
            continue
        agreed: dict[tuple[str, str], list[float]] = defaultdict(list)
        for v in votes:
            sides = [numbers[m][measure.name].get((*v.prompt, v.seed)) for m in (v.left, v.right) if m in numbers]
            if v.vote == "tie" or len(sides) < 2 or None in sides:
                continue
            left, right = (measure.loss(s) for s in sides if s is not None)
            agreed[v.prompt].append(0.5 if left == right else float((left < right) == (v.vote == "left")))
        groups = {"": list(agreed)} | {
            t: [p for p in agreed if themes[p] == t] for t in sorted(set(themes.values())) if t
        }
        found += [_agreement(measure.name, t, [agreed[p] for p in prompts]) for t, prompts in groups.items() if prompts]
    return found


def _agreement(metric: str, theme: str, prompts: Sequence[Sequence[float]]) -> Agreement:
    means = np.array([np.mean(p) for p in prompts], dtype=np.float64)
    low, high = finite(*bounds(means, span=(0.0, 1.0)))
    return Agreement(metric, theme, float(means.mean()), low, high, len(means), sum(map(len, prompts)))
