"""Distances between two sets of features, FID and KID, and the Inception Score, in float64.

They are decided by the features they get: extractor, view, reference set and the numbers of rows belong to their
identity and are recorded with them. KID is the primary one; FID at small n is mostly bias and is there to be
compared with papers at equal n. Per patch means on the crops of a view: ``tiles:1024`` gives FID-patch and IS-patch.

Against the packages that papers used: torch-fidelity 0.4.0 and clean-fid 0.1.35 keep features in float32 (the former's
network also after running in float64), hence means (FID) and kernels (KID) of single precision, which moves numbers in
about their sixth digit, and more where a distance is small beside its features. Given the same features in float64 they
agree with these functions to 1e-9, except FID from fewer rows than dimensions: of the d eigenvalues of the product of
covariances S1 S2 only r = min(n, m) - 1 are not zero, the others come out as rounding errors of up to about
u |S1| |S2| (spectral norms, u = 2^-53), and their roots, 10^8 times larger, are added. That lowers theirs by up to
2 (d - r) sqrt(u |S1| |S2|), which knows nothing of the distance itself: a part in 10^5 and more for 24 rows of 2,048.
"""

from __future__ import annotations

import numpy as np

from bench.errors import UsageError, near
from bench.registry import metric

CHUNK = 2048  # rows of a kernel matrix held at once
ORDERS = ("torch-fidelity", "clean-fid")  # in which KID's subsets are drawn


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
    features: np.ndarray,
    reference: np.ndarray,
    subsets: int = 100,
    size: int = 1000,
    seed: int = 2020,
    order: str = "torch-fidelity",
) -> tuple[float, float]:
    """KID as papers report it: mean and deviation over random subsets of one size.

    Args:
        order: ``torch-fidelity`` draws each subset of the pictures before that of the reference; ``clean-fid`` draws
            in its own order for the call (pictures, reference), the reference first, and takes smaller subsets where
            there are fewer rows. clean-fid uses numpy's global generator: its numbers need the seed set before.

    Raises:
        UsageError: as :func:`kernel_distance`, an unknown order, or fewer rows than ``size`` for torch-fidelity.
    """
    if order not in ORDERS:
        raise UsageError(f"unknown order {order!r} of KID subsets; {near(order, ORDERS)}")
    if order == "clean-fid":
        size = min(size, len(features), len(reference))
        features, reference = reference, features
    x, y = _checked(features, reference, least=max(2, size))
    rng = np.random.RandomState(seed)  # the generator that published numbers come from
    drawn = []
    for _ in range(subsets):
        first = x[rng.choice(len(x), size, replace=False)]
        drawn.append(kernel_distance(first, y[rng.choice(len(y), size, replace=False)]))
    return float(np.mean(drawn)), float(np.std(drawn))


def inception_scores(logits: np.ndarray, splits: int = 1, seed: int | None = None) -> np.ndarray:
    """exp of the mean Kullback-Leibler divergence of p(class | picture) from p(class), for each of ``splits`` parts.

    Args:
        logits: (n, classes); FID's network gives them without its bias, as the original did.
        splits: consecutive parts, as even as may be; each has its own p(class).
        seed: shuffle the rows first, as torch-fidelity does with 2020; None leaves their order.

    Returns:
        (splits,) float64. One split does not depend on the order of rows, several do.

    Raises:
        UsageError: fewer rows than splits, or values that are not finite.
    """
    x = _finite("logits", logits)
    if not 1 <= splits <= len(x):
        raise UsageError(f"need at least one row in each of {splits} splits, got {len(x)} rows; lower splits")
    if seed is not None:
        x = x[np.random.RandomState(seed).permutation(len(x))]
    x = x - x.max(1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    p = np.exp(log_p)
    scores = []
    for i in range(splits):
        part = slice(i * len(x) // splits, (i + 1) * len(x) // splits)
        with np.errstate(divide="ignore", invalid="ignore"):  # a class of no weight adds nothing
            gain = np.where(p[part] > 0, p[part] * (log_p[part] - np.log(p[part].mean(0))), 0.0)
        scores.append(np.exp(gain.sum(1).mean()))
    return np.asarray(scores)


def _checked(features: np.ndarray, reference: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(features, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise UsageError(f"expected features (n, d) and reference (m, d) of one width, got {x.shape} and {y.shape}")
    if min(len(x), len(y)) < least:
        raise UsageError(
            f"need at least {least} feature rows on both sides, got n={len(x)} and m={len(y)}; "
            "generate more pictures, take a view with more crops, or lower subset_size"
        )
    return _finite("features", x), _finite("reference", y)


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2:
        raise UsageError(f"{name}: expected rows (n, d), got {rows.shape}")
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        count, first = int(bad.sum()), int(bad.argmax())
        raise UsageError(f"{name}: {count} of {len(rows)} rows are not finite, first row {first}")
    return rows


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
    features: np.ndarray,
    reference: np.ndarray,
    *,
    subsets: int = 0,
    subset_size: int = 1000,
    seed: int = 2020,
    order: str = "torch-fidelity",
) -> dict[str, float]:
    """Unbiased kernel distance between the features of the pictures and of a named reference set.

    ``kid`` uses all rows at once. With ``subsets`` above 0 the mean and deviation over random subsets are added, drawn
    in the ``order`` of torch-fidelity or clean-fid.
    """
    found = {"kid": kernel_distance(features, reference)}
    if subsets:
        mean, std = kernel_distance_subsets(features, reference, subsets, subset_size, seed, order)
        found |= {"kid-subset-mean": mean, "kid-subset-std": std}
    return found


@metric(
    "fd-dino", scope="set", view="tiles", extractor="dino", unit="", range=(0.0, None), values={"fd-dino": "lower"},
    source="Stein et al., NeurIPS 2023 (Fréchet distance on DINOv2), here at the extractor's size and pooling",
)  # fmt: skip
def fd_dino(features: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Fréchet distance between DINO features of the pictures and of a named reference set."""
    return {"fd-dino": frechet_distance(features, reference)}


@metric(
    "kd-dino", scope="set", view="tiles", extractor="dino", unit="", range=(None, None), values={"kd-dino": "lower"},
    source="Stein et al., NeurIPS 2023 (kernel distance on DINOv2), kernel as in KID",
)  # fmt: skip
def kd_dino(features: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Unbiased kernel distance between DINO features of the pictures and of a named reference set."""
    return {"kd-dino": kernel_distance(features, reference)}


@metric(
    "is", scope="set", view="tiles", extractor="inception", unit="", range=(1.0, None),
    values={"is": "higher", "is-split-mean": "higher", "is-split-std": "none"},
    source="Salimans et al., NeurIPS 2016 (Inception Score)",
)  # fmt: skip
def inception_score(logits: np.ndarray, *, splits: int = 0, seed: int = 2020) -> dict[str, float]:
    """Inception Score of the pictures: sure of each one's class, unsure of all together. It needs no reference.

    ``is`` takes all rows at once. With ``splits`` above 0 the mean and deviation over so many shuffled parts are added,
    as torch-fidelity computes them (papers: 10); fewer rows in a part give a lower score.
    """
    found = {"is": float(inception_scores(logits)[0])}
    if splits:
        parts = inception_scores(logits, splits, seed)
        found |= {"is-split-mean": float(parts.mean()), "is-split-std": float(parts.std())}
    return found


@metric(
    "relative-fid", scope="set", view="random", extractor="inception", unit="", range=(None, None),
    values={"relative-fid": "lower", "relative-fid-pictures": "none", "relative-fid-base": "none"},
    source="PanoLlama, ICCV 2025, Table 1 (signed relative FID); its formula is not published, this one is inferred",
)  # fmt: skip
def relative_fid(features: np.ndarray, reference: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """FID of the panoramas' crops minus FID of single pictures by the same base network, against one reference set.

    Both terms take equally many rows, since FID falls with their number: of a larger base set, every so many rows of
    the sorted ones, because a set has no order of its own. 0 means that panoramas cost nothing in fidelity.

    Raises:
        UsageError: fewer rows of the base network than of panoramas, or what :func:`frechet_distance` refuses.
    """
    n = len(features)
    if len(base) < n:
        raise UsageError(
            f"relative FID compares equally many rows: {n} of panoramas, only {len(base)} of their base network; "
            "put more single pictures into its base reference"
        )
    rows = _finite("base", base)
    spread = rows[np.lexsort(rows.T[::-1])][np.arange(n) * len(rows) // n] if len(rows) > n else rows
    ours, single = frechet_distance(features, reference), frechet_distance(spread, reference)
    return {"relative-fid": ours - single, "relative-fid-pictures": ours, "relative-fid-base": single}
