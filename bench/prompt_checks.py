"""The checks of ``scrollbench prompts lint``, one function each; :class:`bench.prompt_lint.Limits` has the limits."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import UsageError
from bench.prompt_lint import LEVELS, Limits
from bench.prompt_near import Pair, latent_semantic, same_direction, shared_words
from bench.prompt_stats import subtheme
from bench.prompt_tokens import Tokens
from bench.prompt_words import FUNCTION_WORDS, ngrams, normalised, plural, skeleton, stands_in, states, words
from bench.reading import read_toml, shown
from bench.types import Prompt

OF_TEMPLATES = ("near-words", "near-embedding", "openings", "phrases", "skeletons", "vocabulary")
Found = tuple[str, tuple[str, ...], str]  # level, ids, sentence
BALANCED = ("theme", "subtheme", "style", "layout", "time", "unique")
MOST_PAIRS = 100  # of near duplicates that are named, the nearest first
FEWEST_WORDS = 100  # of running text, below which a type-token ratio says nothing


@dataclass(frozen=True)
class Result:
    """What a check answers: its limit and the worst it saw, in words, and (level, ids, sentence) for each finding."""

    check: str
    limit: str
    worst: str
    found: Sequence[Found] = ()
    done: bool = True  # False: ``worst`` says why the check could not be made


@dataclass(frozen=True)
class Subject:
    """The prompts under examination."""

    prompts: tuple[Prompt, ...]
    limits: Limits
    language: str

    @cached_property
    def words(self) -> list[list[str]]:
        """Words of every prompt."""
        return [words(p.text) for p in self.prompts]

    @property
    def english(self) -> bool:
        """Whether checks that know English words mean anything."""
        return self.language.lower().partition("-")[0] == "en"

    def ids(self, positions: Iterable[int]) -> tuple[str, ...]:
        """Ids of the prompts at these positions."""
        return tuple(self.prompts[i].id for i in positions)

    def skipped(self, check: str) -> Result:
        """The answer of an English check on another language."""
        return Result(check, "", f"knows English only; the card says {self.language!r}", done=False)


# -- the same again


def duplicates(s: Subject) -> Result:
    """Prompts that are equal but for case, punctuation and spacing."""
    groups = [g for g in _groups(normalised(p.text) for p in s.prompts).values() if len(g) > 1]
    found = [("error", s.ids(g), f"the same text: {_short(s.prompts[g[0]].text)}") for g in groups]
    return Result("duplicates", "0 equal texts", f"{sum(map(len, groups))} equal texts", found)


def near_duplicates(s: Subject, extractor: str | None, device: str) -> list[Result]:
    """Pairs that share many word 4-grams, then pairs close in an embedding; each pair is reported once."""
    first = [g[0] for g in _groups(normalised(p.text) for p in s.prompts).values()]  # one of each exact duplicate
    texts = [s.prompts[i].text for i in first]

    def said(pairs: list[Pair], how: str) -> list[Found]:
        found = [
            ("error", s.ids((first[p.first], first[p.second])), f"{how.format(p.likeness)}: {_short(texts[p.first])} / "
             f"{_short(texts[p.second])}") for p in pairs[:MOST_PAIRS]
        ]  # fmt: skip
        more = len(pairs) - len(found)
        return [*found, ("error", (), f"{more} more such pairs")] if more else found

    worst, pairs = shared_words(texts, s.limits.near_words)
    limit = f"{s.limits.near_words:.0%} of word 4-grams shared"
    shared = Result("near-words", limit, f"{worst:.0%}", said(pairs, "{:.0%} of word 4-grams shared"))
    if extractor:
        vectors, least, space = _text_tower(extractor, device, texts), s.limits.near_clip, f"text of {extractor}"
    else:
        vectors, least, space = latent_semantic(texts), s.limits.near_embedding, "latent semantic"
    worst, pairs = same_direction(vectors, least, {(p.first, p.second) for p in pairs})
    limit = f"cosine {least:g} ({space})"
    return [shared, Result("near-embedding", limit, f"{worst:.2f}", said(pairs, "cosine {:.2f}"))]


def _text_tower(extractor: str, device: str, texts: Sequence[str]) -> np.ndarray:
    from bench import extractors

    if (role := extractors.role(extractor)) != "clip":
        raise UsageError(f"extractor {extractor!r} has role {role} and reads no text; name one of role clip")
    return extractors.load(extractor, device).embed_text(texts)


# -- made from a template


def openings(s: Subject) -> Result:
    """Prompts that begin with the same three words."""
    groups = _groups(tuple(w[:3]) if len(w) >= 3 else None for w in s.words)
    most = max((len(g) for g in groups.values()), default=0)
    found = [
        ("error", s.ids(g), f"{len(g)} prompts begin {' '.join(opening)!r}")
        for opening, g in _largest(groups, s.limits.openings)
    ]
    return Result("openings", f"{s.limits.openings} prompts with one opening", str(most), found)


def phrases(s: Subject) -> Result:
    """Runs of 4 to 6 words that many prompts share; a run inside a longer one that is as frequent is not repeated."""
    found: list[Found] = []
    longer: list[tuple[tuple[str, ...], int]] = []
    most = 0
    for n in (6, 5, 4):
        groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for i, tokens in enumerate(s.words):
            for gram in dict.fromkeys(ngrams(tokens, n)):
                groups[gram].append(i)
        most = max(most, *map(len, groups.values()), 0)
        for gram, g in _largest(groups, s.limits.phrases):
            if not any(gram in ngrams(long, n) and len(g) <= count for long, count in longer):
                found.append(("error", s.ids(g), f"{len(g)} prompts say {' '.join(gram)!r}"))
            longer.append((gram, len(g)))
    return Result("phrases", f"{s.limits.phrases} prompts with a run of 4 to 6 words", str(most), found)


def skeletons(s: Subject) -> Result:
    """Prompts that are word for word the same once every run of content words is masked."""
    if not s.english:
        return s.skipped("skeletons")
    least = s.limits.skeleton_words
    all_ = (skeleton(p.text) for p in s.prompts)
    groups = _groups(k if sum(w in FUNCTION_WORDS for w in k) >= least else None for k in all_)
    most = max((len(g) for g in groups.values()), default=0)
    found = [
        ("error", s.ids(g), f"{len(g)} prompts are {' '.join(k)!r}") for k, g in _largest(groups, s.limits.skeletons)
    ]
    limit = f"{s.limits.skeletons} prompts with one skeleton of {least} or more function words"
    return Result("skeletons", limit, str(most), found)


def vocabulary(s: Subject, known: Mapping[str, Any]) -> Result:
    """Mean type-token ratio over windows of 100 words."""
    limit = f"MATTR-100 of {s.limits.mattr:.2f} or more"
    if known["tokens"] < FEWEST_WORDS:
        return Result("vocabulary", limit, f"only {known['tokens']} words; needs {FEWEST_WORDS}", done=False)
    found: list[Found] = []
    if known["mattr"] < s.limits.mattr:
        found.append(("error", (), f"MATTR-100 is {known['mattr']:.3f}: the same words come again and again"))
    return Result("vocabulary", limit, f"{known['mattr']:.3f}", found)


# -- length


def token_lengths(s: Subject, tokens: Tokens) -> Result:
    """Prompts a scorer cuts: an error for CLIP, which reads them first of all, a warning for the others."""
    found: list[Found] = []
    if tokens.scorer == "clip":
        found = [
            ("error", (s.prompts[i].id,), f"{tokens.counts[i]} tokens, CLIP reads {tokens.limit}") for i in tokens.cut
        ]
    elif tokens.cut:
        share = f"{len(tokens.cut)} prompts ({len(tokens.cut) / len(s.prompts):.0%}) are cut at {tokens.limit} tokens"
        found = [("warning", s.ids(tokens.cut), share + (", by estimate" if tokens.estimated else ""))]
    worst = f"{max(tokens.counts)}{' (estimated)' if tokens.estimated else ''}, {len(tokens.cut)} cut"
    return Result(f"tokens-{tokens.scorer}", f"{tokens.limit} tokens", worst, found)


# -- balance and what the text must state


def balance(s: Subject) -> Result:
    """Every sub-theme has as many prompts as the others, and an attribute that some prompts have all have."""
    found: list[Found] = []
    for field in BALANCED:
        lacking = [i for i, p in enumerate(s.prompts) if field not in p.attributes]
        if 0 < len(lacking) < len(s.prompts):
            found.append(("warning", s.ids(lacking), f"{len(lacking)} prompts have no {field!r}, the others do"))
    sizes = Counter(name for p in s.prompts if (name := subtheme(p)))
    wanted = s.limits.per_subtheme
    limit = f"{wanted} prompts in every sub-theme" if wanted else "equal sub-themes"
    if not sizes and wanted:
        found.append(("error", (), f"the card asks for {wanted} prompts in every sub-theme, no prompt has one"))
    if sizes and (wanted or len(set(sizes.values())) > 1):
        usual = wanted or Counter(sizes.values()).most_common(1)[0][0]
        for name in sorted(n for n, size in sizes.items() if size != usual):
            said = f"sub-theme {name!r} has {sizes[name]} prompts, {'expected' if wanted else 'most have'} {usual}"
            found.append(("error" if wanted else "warning", (), said))
    worst = f"{min(sizes.values())} to {max(sizes.values())} in {len(sizes)} sub-themes" if sizes else "no sub-themes"
    return Result("balance", limit, worst, found)


def unique_things(s: Subject) -> Result:
    """``unique`` stands word for word in the text, never in the plural, and no count says otherwise."""
    found = []
    for p in s.prompts:
        thing = p.attributes.get("unique")
        if not thing:
            continue
        many = next((f for f in sorted(plural(thing) - {thing}) if s.english and stands_in(f, p.text)), None)
        if not stands_in(thing, p.text):
            found.append(("error", (p.id,), f"unique {thing!r} does not stand in the text: {_short(p.text)}"))
        elif p.attributes.get("counts", {}).get(thing, 1) != 1:
            found.append(("error", (p.id,), f"unique {thing!r} is counted {p.attributes['counts'][thing]} times"))
        elif many:
            found.append(("warning", (p.id,), f"unique {thing!r}, but the text says {many!r}: {_short(p.text)}"))
    asked = sum(bool(p.attributes.get("unique")) for p in s.prompts)
    return Result("unique", "stated in the text", f"{len(found)} of {asked} not as they should be", found)


def counted_things(s: Subject) -> Result:
    """Every number in ``counts`` is said in the text, of that thing."""
    if not s.english:
        return s.skipped("counts")
    found = []
    asked = 0
    for p in s.prompts:
        counts: Mapping[str, int] = p.attributes.get("counts", {})
        asked += len(counts)
        for noun, n in counts.items():
            if wrong := states(p.text, counts, noun):
                found.append(("error", (p.id,), f"counts {noun!r}: {n}, but {wrong}: {_short(p.text)}"))
    return Result("counts", "stated in the text", f"{len(found)} of {asked} not stated", found)


def banned_words(s: Subject, file: Path | None) -> Result:
    """Words of ``banned.toml``, whole words only."""
    if file is None:
        return Result("banned", "0 banned words", "no banned.toml in the folders of prompt sets", done=False)
    found = []
    for group in _banned(file):
        for p in s.prompts:
            if hits := sorted({m[0].lower() for r in group["regexes"] for m in r.finditer(p.text)}):
                found.append((group["level"], (p.id,), f"{', '.join(map(repr, hits))} ({group['reason']})"))
    return Result("banned", "0 banned words", f"{len(found)} prompts", found)


def _banned(file: Path) -> list[dict[str, Any]]:
    groups = read_toml(file).get("group")
    if not isinstance(groups, list) or not groups:
        raise UsageError(f"{file}: expected [[group]] tables with reason, level, words, patterns")
    return [_group(g, f"{file}: group[{i}]") for i, g in enumerate(groups)]


def _group(group: Any, where: str) -> dict[str, Any]:
    if not isinstance(group, dict) or not isinstance(group.get("reason"), str):
        raise UsageError(f"{where}: expected a table with a reason, got {shown(group)}")
    level = group.get("level", "error")
    if level not in LEVELS:
        raise UsageError(f"{where}.level: {shown(level)} is none of {', '.join(LEVELS)}")
    for key in ("words", "patterns"):
        listed = group.get(key, [])
        if not isinstance(listed, list) or not all(isinstance(w, str) and w for w in listed):
            raise UsageError(f"{where}.{key}: must be a list of words, got {shown(listed)}")
    spaced = [re.escape(w).replace(r"\ ", r"\s+") for w in sorted(group.get("words", ()), key=len, reverse=True)]
    regexes = [re.compile(rf"(?<!\w)(?:{'|'.join(spaced)})(?!\w)", re.IGNORECASE)] if spaced else []
    for i, pattern in enumerate(group.get("patterns", ())):
        try:
            regexes.append(re.compile(pattern))
        except (re.error, OverflowError, RecursionError) as error:
            raise UsageError(f"{where}.patterns[{i}]: no regular expression: {error}") from error
    return {"reason": group["reason"], "level": level, "regexes": regexes}


# -- helpers


def _groups(keys: Iterable[Any]) -> dict[Any, list[int]]:
    """Positions by key, without those of None."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        if key is not None:
            groups[key].append(i)
    return groups


def _largest(groups: Mapping[Any, list[int]], limit: int) -> list[tuple[Any, list[int]]]:
    return sorted(((k, g) for k, g in groups.items() if len(g) > limit), key=lambda kg: (-len(kg[1]), kg[0]))


def _short(text: str, room: int = 60) -> str:
    return repr(text if len(text) <= room else text[: room - 3].rstrip() + "...")
