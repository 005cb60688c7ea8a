"""Words of prompts: how a text is split, what its skeleton is, how rich the vocabulary of a set is. Plain Python.

A word is a run of letters and digits, with apostrophes inside it, in lower case; a hyphen separates words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_NUMBERS = """two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty"""
_NUMBER_WORDS = {n: [word] for n, word in enumerate(_NUMBERS.split(), 2)} | {1: ["one", "a", "an", "single", "lone"]}
for _n, _word in ((2, "pair"), (2, "couple"), (2, "both"), (2, "twin"), (3, "trio"), (12, "dozen")):
    _NUMBER_WORDS[_n].append(_word)
_FUNCTION_WORDS = """
    a an the this that these those some any each every all both no not and or but nor so as if than then of in on at
    by to from with without within into onto upon over under above below behind beside between beyond among across
    along around through against off out up down near past towards toward about after before beneath inside
    outside for is are was were be been being has have had do does did its it their they his her he she him them
    our your my we you i who whom whose which what where when while there here
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())  # what stays when content words are masked; never part of a slug
_IRREGULAR = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "foot": "feet", "goose": "geese",
    "mouse": "mice", "tooth": "teeth", "ox": "oxen",
}  # fmt: skip


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower().replace("’", "'"))


def normalised(text: str) -> str:
    """The text without case, punctuation and spacing: equal for exact duplicates."""
    return " ".join(words(text)) or " ".join(text.split())


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Runs of n words, in order."""
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def skeleton(text: str) -> tuple[str, ...]:
    """The text with every run of content words (numbers among them) masked: ``a _ of _ under the _``."""
    masked = [w if w in FUNCTION_WORDS else "_" for w in words(text)]
    return tuple(w for i, w in enumerate(masked) if w != "_" or i == 0 or masked[i - 1] != "_")


def plural(noun: str) -> set[str]:
    """Ways to write a noun in the plural, its singular among them (for things like sheep). English, generous."""
    head, _, last = noun.rpartition(" ")
    forms = {last, last + "s", last + "es", _IRREGULAR.get(last, last)}
    if last.endswith("y"):
        forms.add(last[:-1] + "ies")
    if last.endswith(("f", "fe")):
        forms.add(last.rstrip("e")[:-1] + "ves")
    if last.endswith("us"):
        forms.add(last[:-2] + "i")
    for single, many in _IRREGULAR.items():  # fishwife is above; fisherman, schoolchild
        if last.endswith(single):
            forms.add(last.removesuffix(single) + many)
    return {f"{head} {f}" if head else f for f in forms}


def stands_in(phrase: str, text: str) -> bool:
    """Whether the text has the phrase's words one after another; a possessive counts as its noun."""
    wanted = _bare(phrase)
    return tuple(wanted) in ngrams(_bare(text), len(wanted)) if wanted else False


def _bare(text: str) -> list[str]:
    return [w.removesuffix("'s") for w in words(text)]


def states(text: str, counts: Mapping[str, int], noun: str) -> str:
    """What is wrong with how an English text says ``counts[noun]``, empty if it does.

    The number must stand there as a word or in digits, and so must the noun's head (``row`` of "row of lamps"), in the
    plural from two. A number belongs to the counted noun that follows it first, if one does.
    """
    said, n = _bare(text), counts[noun]
    heads = {name: _forms(name, number) for name, number in counts.items()}
    if not heads[noun] & set(said):
        return f"the text does not name {noun!r}"
    numbers = [i for i, word in enumerate(said) if word in (str(n), *_NUMBER_WORDS.get(n, ()))]
    for i in numbers:
        following = next((name for w in said[i + 1 :] for name, forms in heads.items() if w in forms), noun)
        if following == noun or _head(following) == _head(noun):
            return ""
    return f"the text does not say that there are {n}" if not numbers else f"{n} belongs to another thing in the text"


def _head(noun: str) -> str:
    return (words(noun.partition(" of ")[0]) or [noun])[-1]


def _forms(noun: str, n: int) -> set[str]:
    head = _head(noun)
    return {head} if n == 1 else plural(head)


def richness(texts: Iterable[str], window: int = 100) -> dict[str, Any]:
    """Vocabulary of the texts read one after another.

    ``tokens`` and ``types`` are running and different words, ``ttr`` their ratio (it falls with length: compare only
    sets of one size), ``mattr`` the mean ratio over all windows of ``window`` words, which does not (Covington and
    McFall 2010, "Cutting the Gordian knot: the moving-average type-token ratio"), ``hapax_share`` the share of
    the types used once. Ratios are None without words.
    """
    running = [w for text in texts for w in words(text)]
    used = Counter(running)
    if not running:
        return {"tokens": 0, "types": 0, "ttr": None, "mattr": None, "hapax_share": None}
    width = min(window, len(running))
    inside = Counter(running[:width])
    total = len(inside)
    for old, new in zip(running, running[width:]):
        inside[new] += 1
        inside[old] -= 1
        if not inside[old]:
            del inside[old]
        total += len(inside)
    return {
        "tokens": len(running),
        "types": len(used),
        "ttr": len(used) / len(running),
        "mattr": total / width / (len(running) - width + 1),
        "hapax_share": sum(n == 1 for n in used.values()) / len(used),
    }


def histogram(lengths: Iterable[int], step: int = 10) -> dict[str, int]:
    """Counts by ranges of ``step``: {"10-19": 4, "20-29": 7}; empty ranges between filled ones are listed."""
    bins = Counter(n // step for n in lengths)
    return {f"{b * step}-{b * step + step - 1}": bins[b] for b in range(min(bins), max(bins) + 1)} if bins else {}
