"""Prompts that are nearly the same: by the words they share, and by where they lie in an embedding.

Everything is deterministic: sparse products and one singular value decomposition, no random numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.prompts.words import ngrams, words

CHUNK = 1024  # rows compared with all others at a time: bounds the memory
DIMENSIONS = 256
DENSE = 3000  # texts up to which the decomposition through all inner products is the faster one


@dataclass(frozen=True)
class Pair:
    """Two texts by position, and how alike they are (1: the same)."""

    first: int
    second: int
    likeness: float


def shared_words(texts: Sequence[str], least: float, n: int = 4) -> tuple[float, list[Pair]]:
    """The largest share of word n-grams any two texts have in common, and all pairs that share more than ``least``.

    The share is |A and B| / min(|A|, |B|) over the sets of n-grams, so a text inside another one counts in full. Texts
    of fewer than n words have none and are like nothing.
    """
    matrix = _counts((set(ngrams(words(t), n)) for t in texts), binary=True)
    sizes = np.asarray(matrix.sum(axis=1)).ravel()

    def share(rows: slice) -> np.ndarray:
        both = (matrix[rows] @ matrix.T).toarray()
        return np.asarray(both / np.maximum(np.minimum(sizes[rows, None], sizes), 1))

    return _above(share, len(texts), least)


def same_direction(
    vectors: np.ndarray, least: float, known: Iterable[tuple[int, int]] = ()
) -> tuple[float, list[Pair]]:
    """The largest cosine between rows of ``vectors`` (n, d), and all pairs above ``least``; neither sees ``known``."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    skip = set(known)

    def cosine(rows: slice) -> np.ndarray:
        block = np.asarray(unit[rows] @ unit.T, dtype=float)
        for i, j in skip:
            if rows.start <= i < rows.stop:
                block[i - rows.start, j] = 0.0
        return block

    return _above(cosine, len(unit), least)


def latent_semantic(texts: Sequence[str], dimensions: int = DIMENSIONS) -> np.ndarray:
    """(n, d) embedding: TF-IDF of words and of character n-grams (3 to 5, inside words), reduced by an SVD.

    Latent semantic analysis (Deerwester et al. 1990). Both halves have unit length and weigh the same; counts are
    1 + ln(tf), weights ln((1 + n) / (1 + df)) + 1. It sees shared and related spellings and words that keep the same
    company in this set; it does not know that two different words mean the same.
    """
    from scipy.linalg import eigh
    from scipy.sparse import hstack
    from scipy.sparse.linalg import svds

    whole = hstack([_tfidf(map(words, texts)), _tfidf(map(_characters, texts))]).tocsr()
    n = whole.shape[0]
    if min(whole.shape) <= dimensions:
        return np.asarray(whole.toarray())  # few texts: nothing to reduce
    if n > DENSE:
        left, values, _ = svds(whole, k=dimensions, v0=np.ones(min(whole.shape)))
        return np.asarray(left * values)
    squares, left = eigh((whole @ whole.T).toarray(), subset_by_index=(n - dimensions, n - 1))
    return np.asarray(left * np.sqrt(np.maximum(squares, 0)))


def _above(likeness: Callable[[slice], np.ndarray], n: int, least: float) -> tuple[float, list[Pair]]:
    worst, pairs = 0.0, []
    for start in range(0, n, CHUNK):
        block = likeness(slice(start, start + CHUNK))
        block[np.arange(n) <= np.arange(start, start + len(block))[:, None]] = 0.0  # every pair once
        worst = max(worst, float(block.max(initial=0.0)))
        pairs += [Pair(start + int(i), int(j), float(block[i, j])) for i, j in np.argwhere(block > least + 1e-9)]
    return worst, sorted(pairs, key=lambda p: (-p.likeness, p.first, p.second))


def _characters(text: str) -> Iterator[str]:
    for word in words(text):
        padded = f" {word} "
        yield from ("".join(g) for n in (3, 4, 5) for g in ngrams(padded, n))


def _tfidf(documents: Iterable[Iterable[Any]]) -> Any:
    matrix = _counts(documents)
    n = matrix.shape[0]
    held = np.bincount(matrix.indices, minlength=matrix.shape[1])
    matrix.data = 1 + np.log(matrix.data)
    matrix.data *= (np.log((1 + n) / (1 + held)) + 1)[matrix.indices]
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix.data /= np.repeat(np.maximum(lengths, 1e-12), np.diff(matrix.indptr))
    return matrix


def _counts(documents: Iterable[Iterable[Any]], binary: bool = False) -> Any:
    """Sparse (documents, features) matrix of how often each document has each feature."""
    from scipy.sparse import csr_matrix

    names: dict[Any, int] = {}
    columns: list[int] = []
    values: list[float] = []
    ends = [0]
    for document in documents:
        for feature, count in Counter(document).items():
            columns.append(names.setdefault(feature, len(names)))
            values.append(1.0 if binary else float(count))
        ends.append(len(columns))
    return csr_matrix((values, columns, ends), shape=(len(ends) - 1, max(len(names), 1)))
