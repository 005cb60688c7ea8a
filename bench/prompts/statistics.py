"""Numbers about a prompt set: how its attributes are shared out, how rich its words, how long its prompts are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bench.prompts.tokens import Tokens
from bench.prompts.words import histogram, richness, words
from bench.types import Prompt

OFTEN = 10
MOST_VALUES = 60  # an attribute with more different values is free text, not a category


def shares(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """How many prompts there are of each theme, style and so on.

    ``prompts``; the number of ``themes`` and ``subthemes``; for every attribute that holds one of a few words, prompts
    by value, null as ``none``; for ``unique`` how many prompts ask for a thing that must appear exactly once, for how
    many different things, and for which most ``often``; ``counted``, prompts by how many things have a number from two.
    """
    found: dict[str, Any] = {"prompts": len(prompts)}
    for field in ("theme", "subtheme"):
        if values := {subtheme(p) if field == "subtheme" else p.attributes.get(field) for p in prompts} - {None}:
            found[field + "s"] = len(values)
    fields = dict.fromkeys(key for p in prompts for key in p.attributes)
    for field in fields:
        sizes = Counter(p.attributes[field] or "none" for p in prompts if _is_word_or_null(p, field))
        few = 1 <= len(sizes) <= min(MOST_VALUES, len(prompts) / 2)
        if few and field not in ("unique", "short", "subtheme"):
            found[field] = {value: sizes[value] for value in sorted(sizes)}
    if "unique" in fields:
        asked = [p.attributes["unique"] for p in prompts if p.attributes.get("unique")]
        found["unique"] = {"asked": len(asked), "none": len(prompts) - len(asked), "different": len(set(asked)),
                           "often": dict(Counter(asked).most_common(OFTEN))}  # fmt: skip
    if "counts" in fields:
        kinds = Counter(sum(n > 1 for n in p.attributes.get("counts", {}).values()) for p in prompts)
        found["counted"] = {str(n): kinds[n] for n in sorted(kinds)}
    return found


def subtheme(prompt: Prompt) -> str | None:
    """``theme/subtheme``: sub-themes of two themes may share a name. None where there is none."""
    name = prompt.attributes.get("subtheme")
    return f"{prompt.attributes.get('theme', '')}/{name}" if name else None


def statistics(prompts: Sequence[Prompt], tokens: Mapping[str, Tokens]) -> dict[str, Any]:
    """Vocabulary, lengths in words, and tokens by scorer, rounded to four digits.

    ``words``: see :func:`bench.prompts.words.richness`. ``length``: least, mean and most words and a histogram.
    One table for each scorer: the same in tokens, how many prompts it cuts (``cut``) at its ``limit``, their share, and
    whether the counts are estimates.
    """
    texts = [p.text for p in prompts]
    found: dict[str, Any] = {"words": _rounded(richness(texts)), "length": _lengths([len(words(t)) for t in texts])}
    for name, t in tokens.items():
        cut = {"limit": t.limit, "cut": len(t.cut), "cut_share": round(len(t.cut) / len(texts), 4)}
        found[name] = {**cut, "estimated": t.estimated, **_lengths(t.counts)}
    return found


def _lengths(counts: Sequence[int]) -> dict[str, Any]:
    mean = round(sum(counts) / len(counts), 2)
    return {"least": min(counts), "mean": mean, "most": max(counts), "histogram": histogram(counts)}


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items() if v is not None}


def _is_word_or_null(prompt: Prompt, field: str) -> bool:
    return field in prompt.attributes and isinstance(prompt.attributes[field], str | None)
