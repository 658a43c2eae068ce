"""Principal angles, singular values and their nulls against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from bridge.analysis.numbers.spectra import change, gaussian_like, turned_at_random


def rotation(size: int, i: int, j: int, degrees: float) -> np.ndarray:
    """Turns axis i towards axis j."""
    turn, angle = np.eye(size), np.radians(degrees)
    turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return turn


@pytest.mark.parametrize("degrees", [1e-4, 0.5, 30.0, 89.0])
def test_a_rotation_out_of_the_leading_subspace_is_its_angle(degrees: float) -> None:
    """One of k = 2 leading left vectors turns: mean angle is half of it; right and values stay."""
    matrix = np.diag([5.0, 4.0, 2.0, 1.0])
    found = change(matrix, rotation(4, 1, 2, degrees) @ matrix, k=2)
    assert found.left_deg == pytest.approx(degrees / 2, rel=1e-6)
    assert found.right_deg == pytest.approx(0, abs=1e-6)
    assert found.values == pytest.approx(0, abs=1e-12)
    transposed = change(matrix, matrix @ rotation(4, 1, 2, degrees), k=2)
    assert transposed.right_deg == pytest.approx(degrees / 2, rel=1e-6)
    assert transposed.left_deg == pytest.approx(0, abs=1e-6)


def test_a_rotation_within_the_leading_subspace_turns_it_nowhere() -> None:
    matrix = np.diag([5.0, 4.0, 2.0, 1.0])
    found = change(matrix, rotation(4, 0, 1, 20.0) @ matrix, k=2)
    assert found.left_deg == pytest.approx(0, abs=1e-6)
    # dW = (R - 1) S in the leading block: (cos - 1) s on the diagonal, sin s off it.
    angle, squares = np.radians(20.0), 5.0**2 + 4.0**2
    energy = squares * ((np.cos(angle) - 1) ** 2 + np.sin(angle) ** 2)
    assert found.stretched == pytest.approx(squares * (np.cos(angle) - 1) ** 2 / energy)
    assert found.turned == pytest.approx(squares * np.sin(angle) ** 2 / energy)


def test_scaling_stretches_and_turns_nothing() -> None:
    matrix = np.diag([5.0, 4.0, 2.0, 1.0])
    found = change(matrix, 1.1 * matrix, k=2)
    assert found.values == pytest.approx(0.1)
    assert found.relative_norm == pytest.approx(0.1)
    assert found.left_deg == pytest.approx(0, abs=1e-6)
    assert found.stretched == pytest.approx((25 + 16) / (25 + 16 + 4 + 1))
    assert found.turned == pytest.approx(0, abs=1e-12)


def test_a_small_change_follows_first_order_perturbation() -> None:
    """u_1 turns towards u_j by (s_1 E_j1 + s_j E_1j) / (s_1^2 - s_j^2) radians."""
    rng = np.random.default_rng(0)
    values = np.array([6.0, 3.0, 2.0, 1.0])
    noise = 1e-6 * rng.standard_normal((4, 4))
    towards = [
        (values[0] * noise[j, 0] + values[j] * noise[0, j]) / (values[0] ** 2 - values[j] ** 2)
        for j in range(1, 4)
    ]
    found = change(np.diag(values), np.diag(values) + noise, k=1)
    assert np.radians(found.left_deg) == pytest.approx(np.linalg.norm(towards), rel=1e-4)
    assert found.values == pytest.approx(abs(noise[0, 0]) / 6.0, rel=1e-3)


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9)])
def test_the_nulls_have_the_norm_and_the_spectrum(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    update = rng.standard_normal(shape) @ np.diag(np.arange(1.0, shape[1] + 1))
    noise, turned = gaussian_like(update, rng), turned_at_random(update, rng)
    assert np.linalg.norm(noise) == pytest.approx(np.linalg.norm(update))
    spectrum = np.linalg.svd(update, compute_uv=False)
    assert np.linalg.svd(turned, compute_uv=False) == pytest.approx(spectrum)
    assert not np.allclose(turned, update)


def test_random_vectors_have_no_preferred_direction() -> None:
    """First entries of a uniform unit vector in d dimensions: mean 0, variance 1 / d."""
    rng = np.random.default_rng(2)
    update = np.diag([1.0, 0.0, 0.0, 0.0])
    drawn = np.array([turned_at_random(update, rng)[0, 0] for _ in range(4000)])
    assert drawn.mean() == pytest.approx(0, abs=0.02)
    assert drawn.var() == pytest.approx(1 / 16, rel=0.1)


def test_what_cannot_be_compared_is_refused() -> None:
    matrix = np.eye(4)
    with pytest.raises(ValueError, match="shapes"):
        change(matrix, np.eye(5), k=1)
    with pytest.raises(ValueError, match="from 1 to 3"):
        change(matrix, 2 * matrix, k=4)


def test_no_update_is_no_change() -> None:
    matrix, nothing = np.diag([3.0, 2.0, 1.0]), np.zeros((3, 3))
    rng = np.random.default_rng(3)
    assert set(vars(change(matrix, matrix, k=2)).values()) == {0.0}
    nulls = gaussian_like(np.eye(3), rng), turned_at_random(nothing, rng)
    assert np.linalg.norm(nulls[0]) == pytest.approx(3**0.5) and not nulls[1].any()
    assert not gaussian_like(nothing, rng).any()
