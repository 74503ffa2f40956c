"""Latent processes: belief trees against alpha vectors and known values, envelopes, point-based bounds."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from fastiter import BackendError
from fastiter.experimental import LatentMDP, alpha_vectors, belief_tree
from fastiter.mdp._experimental import latent
from tests.support.error_cases import assert_named

HALF = np.array([0.5, 0.5])
TWO = LatentMDP.bandit(np.array([[0.9, 0.1], [0.1, 0.9]]))
THREE = LatentMDP.bandit(np.array([[0.8, 0.5, 0.2], [0.1, 0.5, 0.9]]))


def random_process(M: int, S: int = 3, A: int = 2) -> LatentMDP:
    rng = np.random.default_rng(0)
    return LatentMDP.of(rng.dirichlet(np.ones(S), (M, S, A)), rng.random((M, S, A)))


def best(vectors: Any, w: np.ndarray) -> float:
    return float((vectors @ w).max())


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        (TWO, {1: 0.5, 2: 1.32, 3: 2.14, 4: 3.0176, 6: 4.788352, 8: 6.5793216}),
        (THREE, {1: 0.55, 2: 1.3, 3: 2.062, 4: 2.8696, 6: 4.51972, 8: 6.1971976}),
    ],
)
def test_bandits(arms: LatentMDP, expected: dict[int, float]) -> None:
    vectors = alpha_vectors(arms, 8)
    for h, value in expected.items():
        assert best(vectors[h][0], HALF) == pytest.approx(value, abs=1e-10)
        if h <= 4:
            assert belief_tree(arms, 0, HALF, h) == pytest.approx(value, abs=1e-10)


Line = tuple[Fraction, Fraction]


def exact_envelope(lines: list[Line]) -> list[Line]:
    """Return the lines that are best somewhere in [0, 1], in rational arithmetic."""

    def crossing(one: Line, other: Line) -> Fraction:
        return (one[0] - other[0]) / ((other[1] - other[0]) - (one[1] - one[0]))

    highest: dict[Fraction, Fraction] = {}
    for x, y in lines:
        highest[y - x] = max(x, highest.get(y - x, x))
    kept: list[Line] = []
    for slope in sorted(highest):
        line = highest[slope], highest[slope] + slope
        while len(kept) > 1 and crossing(kept[-1], line) <= crossing(kept[-2], kept[-1]):
            kept.pop()
        kept.append(line)
    edges = [Fraction(-1), *(crossing(one, other) for one, other in itertools.pairwise(kept)), Fraction(2)]
    return [line for line, low, high in zip(kept, edges[:-1], edges[1:], strict=True) if high > 0 and low < 1]


def test_the_number_of_vectors() -> None:
    """As many as in exact arithmetic, although lines that nearly coincide differ only by rounding."""
    means = [(Fraction(8, 10), Fraction(1, 10)), (Fraction(1, 2), Fraction(1, 2)), (Fraction(2, 10), Fraction(9, 10))]
    lines = [(Fraction(0), Fraction(0))]
    for vectors in alpha_vectors(THREE, 7)[1:]:
        every = itertools.product(means, lines, lines)
        trees = [[m + (1 - m) * u + m * d for m, u, d in zip(*three, strict=True)] for three in every]
        lines = exact_envelope([(x, y) for x, y in trees])
        assert len(vectors[0]) == len(lines)


def test_the_envelope_keeps_vectors_that_are_best_somewhere() -> None:
    rng = np.random.default_rng(130)
    grid = np.linspace(0, 1, 2001)
    weights = np.stack([1 - grid, grid], axis=1)
    for _ in range(20):
        lines = rng.standard_normal((12, 2)).round(1)
        kept = latent._pruned(lines, None)
        np.testing.assert_allclose((weights @ kept.T).max(axis=1), (weights @ lines.T).max(axis=1), atol=1e-12)
        assert len(kept) <= len(np.unique(np.argmax(weights @ lines.T, axis=1))) + 1


@pytest.mark.parametrize("scale", [1e-13, 1e13])
def test_rewards_of_any_size(scale: float) -> None:
    process = TWO._replace(reward=scale * TWO.reward)
    vectors, plain = alpha_vectors(process, 5), alpha_vectors(TWO, 5)
    assert [len(per[0]) for per in vectors] == [len(per[0]) for per in plain]
    best = float(np.max(vectors[5][0] @ HALF))
    assert best == pytest.approx(belief_tree(process, 0, HALF, 5), rel=1e-12)


def test_a_random_process() -> None:
    process = random_process(2)
    value = belief_tree(process, 0, HALF, 4)
    assert value == pytest.approx(2.4529944323, abs=1e-9)
    assert best(alpha_vectors(process, 4)[4][0], HALF) == pytest.approx(value, abs=1e-10)
    known = 0.5 * sum(belief_tree(process, 0, w, 4) for w in np.eye(2))
    assert known == pytest.approx(3.0977662890, abs=1e-9) and known >= value


def test_three_contexts_at_points() -> None:
    process, prior = random_process(3), np.full(3, 1 / 3)
    value = belief_tree(process, 1, prior, 3)
    rng = np.random.default_rng(131)
    few, many = (rng.dirichlet(np.ones(3), n) for n in (3, 600))
    rough, fine = (best(alpha_vectors(process, 3, beliefs=np.vstack([b, prior]))[3][1], prior) for b in (few, many))
    assert rough <= fine + 1e-12 and fine <= value + 1e-12 and fine == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("M", [1, 3, 4])
def test_linear_programs_keep_vectors_that_are_best_somewhere(M: int) -> None:
    """The value of no belief decreases, and each kept vector has a belief at which it is above all others."""
    optimize = pytest.importorskip("scipy.optimize")
    process, rng = random_process(M), np.random.default_rng(190)
    found = alpha_vectors(process, 3 if M < 4 else 2)
    beliefs = np.concatenate([np.eye(M), rng.dirichlet(np.ones(M), 12)])
    for h in range(1, len(found)):
        for s in range(3):
            for w in beliefs[: 4 if h == 3 else None]:
                assert best(found[h][s], 2 * w) == pytest.approx(2 * belief_tree(process, s, w, h), abs=1e-8)
            for k, vector in enumerate(found[h][s]):
                others = np.delete(found[h][s], k, axis=0)
                if len(others) == 0:
                    continue
                A = np.concatenate([others - vector, np.ones((len(others), 1))], axis=1)
                one = optimize.linprog(
                    [*[0.0] * M, -1.0],
                    A_ub=A,
                    b_ub=np.zeros(len(A)),
                    A_eq=[[*[1.0] * M, 0.0]],
                    b_eq=[1],
                    bounds=[(0, None)] * M + [(None, None)],
                )
                assert -one.fun > 1e-9
    if M == 1:
        assert all(len(vectors) == 1 for row in found for vectors in row)


def test_a_context_that_is_there_twice_adds_no_vector() -> None:
    arms = np.array([[0.8, 0.5, 0.2], [0.1, 0.5, 0.9]])
    two, three = (alpha_vectors(LatentMDP.bandit(arms[list(which)]), 3) for which in ((0, 1), (0, 1, 1)))
    assert [len(row[0]) for row in three] == [len(row[0]) for row in two] == [1, 2, 4, 7]
    ours, expected = three[3][0][:, :2], two[3][0]
    np.testing.assert_allclose(ours[np.lexsort(ours.T)], expected[np.lexsort(expected.T)], rtol=0, atol=1e-12)
    assert np.array_equal(three[3][0][:, 1], three[3][0][:, 2])


def test_without_scipy_more_contexts_need_beliefs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent, "find_spec", lambda name: None)
    assert len(alpha_vectors(random_process(2), 2)) == len(alpha_vectors(random_process(3), 2, beliefs=np.eye(3))) == 3
    with pytest.raises(BackendError, match=r"^alpha_vectors: SciPy solves linear programs for 3 contexts and is not"):
        alpha_vectors(random_process(3), 2)


WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: LatentMDP.bandit(np.array([[1.5]])), ValueError, "LatentMDP.bandit: means"),
    (lambda: LatentMDP.of(np.ones((1, 1, 1, 2)), np.ones((1, 1, 1))), ValueError, "LatentMDP.of: transitions"),
    (lambda: LatentMDP.of(np.full((1, 2, 1, 2), 0.4), np.ones((1, 2, 1))), ValueError, "LatentMDP.of: transitions"),
    (lambda: LatentMDP.of(np.ones((1, 1, 1, 1)), np.ones(1)), ValueError, "LatentMDP.of: rewards"),
    (lambda: LatentMDP.of(np.array(1.0), np.ones(1)), ValueError, "LatentMDP.of: transitions"),
    (lambda: belief_tree(TWO, 1, HALF, 2), ValueError, "belief_tree: state"),
    (lambda: belief_tree(TWO, 0, np.ones(3), 2), ValueError, "belief_tree: weights"),
    (lambda: alpha_vectors(TWO, 1, beliefs=np.ones((2, 3))), ValueError, "alpha_vectors: beliefs"),
    (lambda: alpha_vectors(TWO, 1, beliefs=np.array([[np.nan, 1.0]])), ValueError, "alpha_vectors: beliefs"),
    (lambda: alpha_vectors(TWO, 1, beliefs=-np.ones((1, 2))), ValueError, "alpha_vectors: beliefs"),
    (lambda: alpha_vectors(tuple(TWO), 1), TypeError, "alpha_vectors: process"),
    (lambda: alpha_vectors(TWO, -1), ValueError, "alpha_vectors: horizon"),
]


def test_wrong_arguments() -> None:
    assert_named(WRONG)
