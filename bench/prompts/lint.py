"""Lint a prompt set: duplicates, templates, lengths, balance, what the text must state, banned words.

``lint(load_prompts("scrollworld@1"))`` answers with a :class:`Report`. Its thresholds are :class:`Limits`; a card may
set its own in ``[lint]``. The checks themselves are in :mod:`bench.prompts.checks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from bench.prompts import checks
from bench.prompts.limits import LEVELS, Limits
from bench.prompts.sets import ROOT, PromptSet, roots
from bench.prompts.statistics import shares, statistics
from bench.prompts.tokens import count_tokens


@dataclass(frozen=True)
class Finding:
    """What a check found, in which prompts, and how bad that is: note, warning or error."""

    check: str
    level: str
    ids: tuple[str, ...]
    said: str


@dataclass(frozen=True)
class Tally:
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
    checks: tuple[Tally, ...]
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
        tokenizers: folders of tokenizers, see :func:`bench.prompts.tokens.count_tokens`.
        root: where ``banned.toml`` is looked for, before the folders of ``SCROLLBENCH_PROMPTS``.

    Raises:
        UsageError: an unknown key in ``[lint]``, extractor or tokenizer. PrerequisiteError: the extractor's weights are
            not here.
    """
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
        rows.append(Tally(r.check, r.limit, r.worst, verdict if r.done else "not checked"))
        findings += mine
    return Report(chosen.ref, chosen.digest, len(chosen.prompts), limits, tuple(rows), tuple(findings),
                  shares(chosen.prompts), found)  # fmt: skip
