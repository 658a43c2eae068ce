"""How an update changed a weight matrix: what it turned, what it stretched, and what noise does.

With W = U S V^T before and W' = U' S' V'^T after, the leading k left vectors span a subspace each;
their principal angles are taken by the sine-based formula of Knyazev and Argentati
(`scipy.linalg.subspace_angles`), because arccos loses small ones. Single vectors are not compared:
their signs, and their rotation among close singular values, mean nothing.

Singular values that stay and vectors that turn are what a *random* update gives too. So a change is
shown beside its nulls: a Gaussian update of the same Frobenius norm, and the update itself with its
own singular values between random vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import subspace_angles

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """What an update did to a matrix's leading k singular vectors and values."""

    relative_norm: float
    """Frobenius norm of the update over that of the matrix."""
    left_deg: float
    """Mean principal angle of the leading left subspaces, in degrees."""
    right_deg: float
    values: float
    """Mean of |s' - s| / s over the leading k singular values."""
    stretched: float
    """Share of the update's energy on the diagonal of U_k^T dW V_k: leading directions scaled."""
    turned: float
    """Share off that diagonal: it mixes them among each other. The rest leaves the subspaces."""


def change(before: Array, after: Array, k: int) -> Change:
    """Compare a matrix with its successor; where nothing was updated, everything is 0.

    Args:
        before, after: [rows, columns], of one shape.
        k: leading singular vectors, fewer than the smaller side: of all of them the subspace is
            everything, and every angle 0.

    Raises:
        ValueError: the shapes differ, or k is out of range.
    """
    if before.shape != after.shape or before.ndim != 2:
        raise ValueError(f"matrices of shapes {before.shape} and {after.shape} cannot be compared")
    if not 1 <= k < min(before.shape):
        raise ValueError(f"k is {k}; it must be from 1 to {min(before.shape) - 1}")
    old, new = np.asarray(before, np.float64), np.asarray(after, np.float64)
    update = new - old
    energy = float((update**2).sum())
    if energy == 0:
        return Change(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    left, values, right = _leading(old, k)
    left_after, values_after, right_after = _leading(new, k)
    core = left.T @ update @ right
    on_diagonal = float((np.diag(core) ** 2).sum())
    return Change(
        relative_norm=float(np.sqrt(energy) / np.linalg.norm(old)),
        left_deg=_mean_angle_deg(left, left_after),
        right_deg=_mean_angle_deg(right, right_after),
        values=float(np.mean(np.abs(values_after - values) / values)),
        stretched=on_diagonal / energy,
        turned=(float((core**2).sum()) - on_diagonal) / energy,
    )


def gaussian_like(update: Array, rng: np.random.Generator) -> Array:
    """A Gaussian matrix of the update's shape and Frobenius norm."""
    drawn = rng.standard_normal(update.shape)
    return np.asarray(drawn * (np.linalg.norm(update) / np.linalg.norm(drawn)))


def turned_at_random(update: Array, rng: np.random.Generator) -> Array:
    """A matrix with the update's singular values between uniformly random singular vectors."""
    values = np.linalg.svd(update, compute_uv=False)
    rank = len(values)
    left, right = (_orthonormal(side, rank, rng) for side in update.shape)
    return np.asarray((left * values) @ right.T)


def _orthonormal(size: int, rank: int, rng: np.random.Generator) -> Array:
    """[size, rank], uniform: the signs of QR's diagonal are taken out (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((size, rank)))
    return np.asarray(q * np.sign(np.diag(r)))


def _leading(matrix: Array, k: int) -> tuple[Array, Array, Array]:
    """(U_k [rows, k], s_k [k], V_k [columns, k])."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left[:, :k], values[:k], right[:k].T


def _mean_angle_deg(first: Array, second: Array) -> float:
    return float(np.degrees(subspace_angles(first, second)).mean())
