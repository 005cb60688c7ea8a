"""Distances between two sets of features: FID and KID, in float64.

Both are decided by the features they get: extractor, view, reference set and the numbers of rows belong to their
identity and are recorded with them. KID is the primary one; FID at small n is mostly bias and is there to be
compared with papers at equal n.
"""

from __future__ import annotations

import numpy as np

from bench.errors import UsageError
from bench.registry import metric

CHUNK = 2048  # rows of a kernel matrix held at once


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """Squared Fréchet distance of two Gaussians fitted to (n, d) and (m, d) features, covariances with n - 1.

    The trace of the square root of the covariance product is the nuclear norm of A B^T, where A^T A and B^T B are
    the covariances: one SVD of size min(n, d), with no matrix root, no imaginary part, and no trouble with
    covariances of low rank.

    Raises:
        UsageError: fewer than two rows, different widths, or values that are not finite.
    """
    x, y = _checked(features, reference, least=2)
    a, b = _factor(x), _factor(y)
    shift = float(((x.mean(0) - y.mean(0)) ** 2).sum())
    root = float(np.linalg.svd(a @ b.T, compute_uv=False).sum())
    return max(0.0, shift + float((a**2).sum()) + float((b**2).sum()) - 2 * root)


def kernel_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """Unbiased squared MMD of (n, d) and (m, d) features, kernel (x.y / d + 1)^3: KID on all rows. May be negative.

    Raises:
        UsageError: fewer than two rows, different widths, or values that are not finite.
    """
    x, y = _checked(features, reference, least=2)
    n, m = len(x), len(y)
    within_x = _kernel_sum(x, x) - float(_kernel((x * x).sum(1), x.shape[1]).sum())
    within_y = _kernel_sum(y, y) - float(_kernel((y * y).sum(1), y.shape[1]).sum())
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * _kernel_sum(x, y) / (n * m)


def kernel_distance_subsets(
    features: np.ndarray, reference: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """KID as papers report it: mean and deviation over random subsets of one size, drawn as torch-fidelity does.

    clean-fid draws from the other set first: swap the arguments for its numbers.

    Raises:
        UsageError: as :func:`kernel_distance`, or fewer rows than ``size``.
    """
    x, y = _checked(features, reference, least=max(2, size))
    rng = np.random.RandomState(seed)  # the generator that published numbers come from
    drawn = []
    for _ in range(subsets):
        first = x[rng.choice(len(x), size, replace=False)]
        drawn.append(kernel_distance(first, y[rng.choice(len(y), size, replace=False)]))
    return float(np.mean(drawn)), float(np.std(drawn))


def _checked(features: np.ndarray, reference: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(features, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise UsageError(f"expected features (n, d) and reference (m, d) of one width, got {x.shape} and {y.shape}")
    if min(len(x), len(y)) < least:
        raise UsageError(
            f"need at least {least} feature rows on both sides, got n={len(x)} and m={len(y)}; "
            "generate more pictures, take a view with more crops, or lower subset_size"
        )
    for name, rows in (("features", x), ("reference", y)):
        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            count, first = int(bad.sum()), int(bad.argmax())
            raise UsageError(f"{name}: {count} of {len(rows)} rows are not finite, first row {first}")
    return x, y


def _factor(x: np.ndarray) -> np.ndarray:
    """A with A^T A the covariance of x, and at most d rows."""
    centred: np.ndarray = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    if len(x) <= x.shape[1]:
        return centred
    triangle: np.ndarray = np.asarray(np.linalg.qr(centred, mode="r"))
    return triangle


def _kernel(products: np.ndarray, d: int) -> np.ndarray:
    cubed: np.ndarray = (products / d + 1) ** 3
    return cubed


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    return sum(float(_kernel(x[i : i + CHUNK] @ y.T, x.shape[1]).sum()) for i in range(0, len(x), CHUNK))


@metric(
    "fid", scope="set", view="tiles", extractor="inception", unit="", range=(0.0, None), values={"fid": "lower"},
    source="Heusel et al., NeurIPS 2017",
)  # fmt: skip
def fid(features: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Fréchet distance between the features of the pictures and of a named reference set."""
    return {"fid": frechet_distance(features, reference)}


@metric(
    "kid", scope="set", view="tiles", extractor="inception", unit="", range=(None, None),
    values={"kid": "lower", "kid-subset-mean": "lower", "kid-subset-std": "none"},
    source="Binkowski et al., ICLR 2018",
)  # fmt: skip
def kid(
    features: np.ndarray, reference: np.ndarray, *, subsets: int = 0, subset_size: int = 1000, seed: int = 2020
) -> dict[str, float]:
    """Unbiased kernel distance between the features of the pictures and of a named reference set.

    ``kid`` uses all rows at once. With ``subsets`` above 0 the mean and deviation over random subsets are added, as
    torch-fidelity computes them.
    """
    found = {"kid": kernel_distance(features, reference)}
    if subsets:
        mean, std = kernel_distance_subsets(features, reference, subsets, subset_size, seed)
        found |= {"kid-subset-mean": mean, "kid-subset-std": std}
    return found
