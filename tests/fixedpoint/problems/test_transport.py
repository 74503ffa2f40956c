"""Transport sweeps against the specification, which is checked by a linear system, exact fluxes and balances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.experimental import transport_sweep
from fastiter.fixedpoint import reference

MU, WEIGHTS = np.polynomial.legendre.leggauss(8)


def slab(*shape: int, directions: int = 8, dtype: str = "float64", seed: int = 0) -> list[Any]:
    """Return q, sigma, h, mu, weights and incoming; some cells are empty, some are thick."""
    rng = np.random.default_rng([seed, directions, *shape])
    q, sigma = rng.standard_normal(shape), 3 * rng.random(shape) * (rng.random(shape) > 0.2)
    mu, weights = rng.uniform(0.05, 1, directions) * rng.choice([-1, 1], directions), rng.random(directions)
    incoming = rng.random((*shape[:-1], directions))
    return [x.astype(dtype) for x in (q, sigma, 0.1 + rng.random(shape[-1:]), mu, weights, incoming)]


def sweep(*arrays: Any) -> Any:
    return transport_sweep(*arrays[:-1], incoming=arrays[-1])


def test_the_specification_solves_the_balance_of_each_cell() -> None:
    """One linear system for all edges of a direction, solved without an order of the cells."""
    q, sigma, h, mu, weights, incoming = slab(7, directions=5)
    phi, outgoing = reference.transport_sweep(q, sigma, h, mu, weights, incoming)
    expected = np.zeros(7)
    for n in range(5):
        matrix, right = np.zeros((8, 8)), np.zeros(8)
        for i in range(7):  # mu (right edge - left edge) + h sigma (sum of edges) / 2 = h q / 2
            matrix[i, i], matrix[i, i + 1] = -mu[n] + h[i] * sigma[i] / 2, mu[n] + h[i] * sigma[i] / 2
            right[i] = h[i] * q[i] / 2
        matrix[7, 0 if mu[n] > 0 else 7], right[7] = 1, incoming[n]
        edges = np.linalg.solve(matrix, right)
        expected += weights[n] * (edges[1:] + edges[:-1]) / 2
        np.testing.assert_allclose(outgoing[n], edges[-1 if mu[n] > 0 else 0], rtol=1e-12)
    np.testing.assert_allclose(phi, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("cells", "directions"), [(1, 1), (1, 40), (5, 3), (33, 16), (100, 17), (0, 3), (4, 0)])
def test_kernel_is_the_specification(dtype: str, cells: int, directions: int) -> None:
    arrays = slab(2, cells, directions=directions, dtype=dtype)
    found = sweep(*arrays)
    assert found.phi.dtype == found.outgoing.dtype == dtype
    q, sigma, h, mu, weights, incoming = (x.astype(np.float64) for x in arrays)
    # Each cell rounds the flux a few times, and no cell amplifies an error.
    most = np.abs(incoming).max(initial=0) + (np.abs(q) * h).sum(axis=1).max(initial=0) / 0.1
    error = 8 * (cells + directions + 1) * float(np.finfo(dtype).eps) * most
    for k in range(2):
        phi, outgoing = reference.transport_sweep(q[k], sigma[k], h, mu, weights, incoming[k])
        np.testing.assert_allclose(found.phi[k], phi, rtol=0, atol=error * max(weights.sum(), 1))
        np.testing.assert_allclose(found.outgoing[k], outgoing, rtol=0, atol=error)


def test_second_order_and_exact_in_an_infinite_medium() -> None:
    """Without scattering psi = q / (2 sigma) (1 - exp(-sigma x / mu)); a slab in equilibrium with its ends is flat."""
    errors = []
    for cells in (50, 100, 200):
        h = 2 / cells
        found = transport_sweep(np.full(cells, 3.0), 1.5, h, MU, WEIGHTS)
        np.testing.assert_allclose(found.phi, found.phi[::-1], rtol=1e-13)
        errors.append(np.abs(found.outgoing - (1 - np.exp(-1.5 * 2 / np.abs(MU)))).max())
    np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 4, rtol=0.2)
    flat = transport_sweep(np.full(9, 3.0), 1.5, 0.7, MU, WEIGHTS, incoming=np.ones(8))
    np.testing.assert_allclose(flat.phi, 2, rtol=1e-14)


def test_emitted_particles_are_absorbed_or_leave() -> None:
    q, sigma, h, mu, weights, incoming = slab(3, 60)
    weights *= 2 / weights.sum()
    found = sweep(q, sigma, h, mu, weights, incoming)
    leaves = ((found.outgoing - incoming) * np.abs(mu) * weights).sum(axis=1)
    np.testing.assert_allclose(((q - sigma * found.phi) * h).sum(axis=1), leaves, rtol=1e-11, atol=1e-12)


def test_threads_layouts_and_batches() -> None:
    arrays = slab(40, 300, directions=19)
    before = fastiter.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            fastiter.set_num_threads(threads)
            results.append(sweep(*arrays))
    finally:
        fastiter.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
    strided = []
    for x in arrays:
        room = np.empty((*x.shape[:-1], 2 * x.shape[-1] + 1))
        room[..., 1::2] = x
        room.flags.writeable = False
        strided.append(room[..., 1::2])
    strided[0] = np.asfortranarray(arrays[0])
    q, sigma, h, mu, weights, incoming = arrays
    alone = [sweep(q[k], sigma[k], h, mu, weights, incoming[k]) for k in (0, 39)]
    for part in range(2):
        np.testing.assert_array_equal(sweep(*strided)[part], results[0][part])
        np.testing.assert_array_equal(results[0][part][[0, 39]], np.stack([one[part] for one in alone]))
    one = sweep(q, sigma[3], h, mu, weights, incoming)  # one cross-section for all, and numbers
    np.testing.assert_array_equal(one.phi, sweep(q, np.tile(sigma[3], (40, 1)), h, mu, weights, incoming).phi)
    lists = transport_sweep([1.0, 2.0], 1, 2, [0.5, -0.5], [1, 1])  # type: ignore[arg-type]
    full = transport_sweep(np.array([1.0, 2.0]), np.ones(2), np.full(2, 2.0), np.array([0.5, -0.5]), np.ones(2))
    np.testing.assert_array_equal(lists.phi, full.phi)
    assert transport_sweep(np.ones((0, 3)), 1.0, 1.0, MU, WEIGHTS).outgoing.shape == (0, 8)


def test_values_that_are_not_finite_stay_in_their_slab_and_direction() -> None:
    q, sigma, h, mu, weights, incoming = slab(3, 20)
    clean = sweep(q, sigma, h, mu, weights, incoming)
    q[1, 7], incoming[2, 0] = np.nan, np.inf
    found = sweep(q, sigma, h, mu, weights, incoming)
    np.testing.assert_array_equal(found.phi[0], clean.phi[0])
    assert np.isnan(found.outgoing[1]).all() and np.isfinite(found.outgoing[2, 1:]).all()
    assert np.isnan(found.phi[1, 7]) and not np.isfinite(found.phi[2]).any()
    huge = transport_sweep(np.full(4, 1e-300), 1e150, 1e150, MU, WEIGHTS)  # opaque: a is -1, and the mean q / sigma
    assert np.isfinite(huge.phi).all() and np.isfinite(huge.outgoing).all()
    tiny = transport_sweep(np.full(4, 5e-324), 0.0, 1.0, MU, WEIGHTS)
    assert (tiny.phi >= 0).all()


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"q": 3}, ValueError, r"q must have shape \(I,\) or \(B, I\), got \(\)"),
        ({"q": np.ones((2, 3), complex)}, TypeError, "q must be a NumPy array of float32 or float64, got .*complex128"),
        ({"sigma": np.ones(4)}, ValueError, r"sigma must be a number or have shape \(2, 3\) or \(3,\) .*, got \(4,\)"),
        ({"sigma": -1.0}, ValueError, "sigma must be finite and at least 0, got -1"),
        ({"sigma": np.ones(3, np.float32)}, TypeError, "sigma must have dtype float64 like q, got float32"),
        ({"h": 0.0}, ValueError, "h must be finite and above 0, got 0"),
        ({"h": np.ones((2, 3))}, ValueError, r"h must be a number or have shape \(3,\) to go with q, got \(2, 3\)"),
        ({"sigma": 1e200, "h": 1e200}, ValueError, r"sigma \* h must be finite in float64, got inf"),
        ({"mu": np.array([0.5, 0.0])}, ValueError, "mu must not be 0 or beyond float64, got 0"),
        ({"mu": np.array([0.5, np.nan])}, ValueError, "mu must be finite, got nan"),
        ({"mu": np.ones((1, 2))}, ValueError, r"mu must have shape \(N,\), got \(1, 2\)"),
        ({"weights": np.ones(3)}, ValueError, r"weights must have shape \(2,\) like mu, got \(3,\)"),
        ({"incoming": np.ones(2)}, ValueError, r"incoming must have shape \(2, 2\) to go with q and mu, got \(2,\)"),
    ],
)
def test_wrong_arguments_raise_one_sentence(wrong: dict[str, Any], error: Any, message: str) -> None:
    given = {"q": np.ones((2, 3)), "sigma": 1.0, "h": 1.0, "mu": np.array([0.5, -0.5]), "weights": np.ones(2), **wrong}
    with pytest.raises(error, match=f"^transport_sweep: {message}"):
        transport_sweep(**given)
