"""Lint a prompt set: duplicates, templates, lengths, balance, what the text must state, banned words.

``lint(load_prompts("scrollworld@1"))`` answers with a :class:`Report`. Its thresholds are :class:`Limits`; a card may
set its own in ``[lint]``. The checks themselves are in :mod:`bench.prompt_checks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_type_hints

from bench.errors import UsageError, near
from bench.prompts import ROOT, PromptSet, roots

LEVELS = ("note", "warning", "error")


@dataclass(frozen=True)
class Limits:
    """The thresholds. A value at a limit is allowed; beyond it is a finding. Made for about 1,000 English prompts."""

    near_words: float = 0.40  # share of word 4-grams any two prompts have in common
    near_embedding: float = 0.75  # cosine of any two in the latent semantic embedding
    near_clip: float = 0.95  # cosine of any two in a CLIP text embedding (INFERENCE: not calibrated on real weights)
    openings: int = 15  # prompts that begin with the same three words
    phrases: int = 15  # prompts that share a run of 4, 5 or 6 words
    skeletons: int = 3  # prompts that are the same once content words are masked
    skeleton_words: int = 3  # function words a skeleton must have to count as one
    mattr: float = 0.60  # least mean type-token ratio over windows of 100 words
    per_subtheme: int | None = None  # prompts each sub-theme must have; None: only compared with each other
    templated: bool = False  # a set made from a template on purpose: what shows that is noted, not an error

    @classmethod
    def of(cls, card: Mapping[str, Any], where: str) -> Limits:
        """The limits with what the card's ``[lint]`` sets. Raises ``UsageError`` naming the key."""
        given = card.get("lint", {})
        if not isinstance(given, dict):
            raise UsageError(f"{where}: [lint] must be a table, got {given!r}")
        types = get_type_hints(cls)
        for key, value in given.items():
            if key not in types:
                raise UsageError(f"{where}: [lint] has no key {key!r}; {near(key, types)}")
            wanted = {float: int | float, int | None: int}.get(types[key], types[key])
            if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
                name = str(wanted) if isinstance(wanted, UnionType) else wanted.__name__
                raise UsageError(f"{where}: [lint] {key} must be {name}, got {value!r}")
        return cls(**given)


@dataclass(frozen=True)
class Finding:
    """What a check found, in which prompts, and how bad that is: note, warning or error."""

    check: str
    level: str
    ids: tuple[str, ...]
    said: str


@dataclass(frozen=True)
class Check:
    """A check's name, what it allows, the worst it saw, and its verdict: ok, note, warning, error or not checked."""

    check: str
    limit: str
    worst: str
    verdict: str


@dataclass(frozen=True)
class Report:
    """The outcome. ``limits`` and ``statistics`` are plain; findings come in the order of the checks."""

    set: str
    digest: str
    prompts: int
    limits: Limits
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    shares: Mapping[str, Any]
    statistics: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether nothing is at level error."""
        return all(f.level != "error" for f in self.findings)

    def plain(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {"ok": self.ok, **{f.name: getattr(self, f.name) for f in fields(self)}, "limits": asdict(self.limits),
                "checks": [asdict(c) for c in self.checks], "findings": [asdict(f) for f in self.findings]}  # fmt: skip


def lint(
    chosen: PromptSet,
    *,
    extractor: str | None = None,
    tokenizers: Mapping[str, Path] | None = None,
    device: str = "cpu",
    root: Path = ROOT,
) -> Report:
    """Run all checks on a set or a selection of one.

    Args:
        extractor: a CLIP extractor (a name or ``clip@FOLDER``); its text tower replaces the latent semantic embedding.
        tokenizers: folders of tokenizers, see :func:`bench.prompt_tokens.count_tokens`.
        root: where ``banned.toml`` is looked for, before the folders of ``SCROLLBENCH_PROMPTS``.

    Raises:
        UsageError: an unknown key in ``[lint]``, extractor or tokenizer. PrerequisiteError: the extractor's weights are
            not here.
    """
    from bench import prompt_checks as checks
    from bench.prompt_stats import shares, statistics
    from bench.prompt_tokens import count_tokens

    limits = Limits.of(chosen.card, f"card of {chosen.ref}")
    if ":" in chosen.ref:
        limits = replace(limits, per_subtheme=None)  # said of the whole set
    tokens = count_tokens([p.text for p in chosen.prompts], tokenizers)
    found = statistics(chosen.prompts, tokens)
    subject = checks.Subject(chosen.prompts, limits, str(chosen.card.get("language", "en")))
    results = [
        checks.duplicates(subject),
        *checks.near_duplicates(subject, extractor, device),
        checks.openings(subject),
        checks.phrases(subject),
        checks.skeletons(subject),
        checks.vocabulary(subject, found["words"]),
        *(checks.token_lengths(subject, t) for t in tokens.values()),
        checks.balance(subject),
        checks.unique_things(subject),
        checks.counted_things(subject),
        checks.banned_words(subject, next((f for r in roots(root) if (f := r / "banned.toml").is_file()), None)),
    ]
    rows, findings = [], []
    for r in results:
        mild = limits.templated and r.check in checks.OF_TEMPLATES
        mine = [Finding(r.check, "note" if mild else level, ids, said) for level, ids, said in r.found]
        verdict = max((f.level for f in mine), key=LEVELS.index, default="ok")
        rows.append(Check(r.check, r.limit, r.worst, verdict if r.done else "not checked"))
        findings += mine
    return Report(chosen.ref, chosen.digest, len(chosen.prompts), limits, tuple(rows), tuple(findings),
                  shares(chosen.prompts), found)  # fmt: skip
