"""The kernels against the specification: backups, sweeps in place, prioritized sweeping, chains of policies."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")

import fastiter
from fastiter import mdp
from fastiter.mdp import reference
from tests.mdp.cases import mdp_of, random_process
from tests.rnn.calls import assert_runs
from tests.support.isas import LAST_OF_A_KIND

DTYPES = ("float32", "float64")
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("S", "A"), [(1, 1), (1, 3), (2, 1), (7, 3), (33, 4)])
def test_backup(S: int, A: int, dtype: str) -> None:
    P, R = random_process(S, A, 1)
    process = mdp_of(P, R, 0.9, dtype)._process
    v = np.random.default_rng(2).standard_normal(S).astype(dtype)
    w, action = np.full_like(v, np.nan), np.full(S, -7, np.int32)
    low, high = process.model.backup(v, w, action, 1, 0.9, None)
    expected, actions = reference.backup(P, R, 0.9, v)
    np.testing.assert_allclose(w, expected, rtol=0, atol=TOLERANCE[dtype])
    assert np.array_equal(process.label(action), actions)
    assert low == float((w.astype(float) - v).min())
    assert high == float((w.astype(float) - v).max())


@pytest.mark.parametrize("b", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_equal_and_of_different_lengths_have_the_same_bits(b: int, dtype: str) -> None:
    """Rows of equal length take another path, as do values that exceed the caches; one longer row avoids the first."""
    nbytes = {1: 9 * 2**19, 5: 3 * 2**19}.get(b)
    S = nbytes // np.dtype(dtype).itemsize if nbytes else 50
    garnet = mdp.examples.garnet(S, 2, b, 0.9, seed=b, dtype=dtype)
    weight, target, entry = garnet.transitions
    longer = (
        np.append(weight, np.full(10, 0.1, dtype)),
        np.append(target, np.zeros(10, np.int32)),
        np.append(entry, entry[-1] + 10),
    )
    rows = garnet._process.rows._replace(
        row=np.append(garnet.row_starts, 2 * S + 1),
        entry=longer[2],
        next=longer[1],
        weight=longer[0],
        reward=np.append(garnet.rewards, dtype_zero(dtype)),
    )
    other = mdp.MDP._of(rows, 0.9)
    v = np.random.default_rng(3).random(S + 1).astype(dtype)
    found = []
    for process in (garnet._process, other._process):
        w, action = np.empty(process.states, dtype), np.empty(process.states, np.int32)
        process.model.backup(v[: process.states].copy(), w, action, 1, 0.9, None)
        found.append((w[:S], action[:S]))
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])


def dtype_zero(dtype: str) -> np.ndarray:
    return np.zeros(1, dtype)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_the_number_of_threads(threads: int, dtype: str) -> None:
    process = mdp.examples.garnet(20_000, 3, 6, 0.9, dtype=dtype)._process
    found = []
    for count in (1, threads):
        fastiter.set_num_threads(count)
        v, w = np.random.default_rng(4).random((2, process.states)).astype(dtype)
        action = np.empty(process.states, np.int32)
        change = process.model.backup(v, w, action, 5, 0.9, None)
        found.append((change, w.tobytes(), action.tobytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("omega", [1.0, 0.7, 1.3])
def test_sweep_in_place(omega: float, exact: bool, dtype: str) -> None:
    P, R = random_process(23, 3, 5)
    P[3, :, :], P[3, :, 3] = 0, 1  # stays with certainty
    process = mdp_of(P, R, 0.9, dtype)._process
    order = np.random.default_rng(6).permutation(23).astype(np.int32)
    for chosen in (None, order):
        v = np.random.default_rng(7).standard_normal(23).astype(dtype)
        expected = reference.sweep(P, R, 0.9, v, range(23) if chosen is None else chosen, omega, exact)
        start = v.copy()
        change = process.model.sweep(v, chosen, 23, 0.9, omega, exact)
        np.testing.assert_allclose(v, expected, rtol=0, atol=20 * TOLERANCE[dtype])
        assert change == pytest.approx(np.abs(expected - start).max() / omega, rel=1e-4)


def test_a_permuted_copy_is_swept_in_its_order() -> None:
    P, R = random_process(23, 3, 8)
    process = mdp_of(P, R, 0.9)._process
    order = np.random.default_rng(9).permutation(23).astype(np.int32)
    v = np.random.default_rng(10).standard_normal(23)
    own = v[order]
    process.model.permuted(order).sweep(own, None, 23, 0.9, 1.0, True)
    process.model.sweep(v, order, 23, 0.9, 1.0, True)
    assert np.array_equal(own, v[order])


def test_prioritized_sweeping() -> None:
    P, R = random_process(19, 2, 11)
    process = mdp_of(P, R, 0.8)._process
    v = np.zeros(19)
    expected, changed = reference.prioritized_sweeping(P, R, 0.8, v, 1e-6)
    heap = process.model.prioritized(*process.predecessors, 0.8, 1e-6)
    taken = 0
    while True:  # in pieces, as for signals
        now, backups = heap.run(v, 40, 60)
        taken += now
        assert backups <= 60  # so that each of the 19 states is updated, with its predecessors
        if backups < 40:
            break
    np.testing.assert_allclose(v, expected, rtol=0, atol=1e-12)
    assert taken == changed
    assert np.abs(reference.backup(P, R, 0.8, v)[0] - v).max() <= 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_chains_of_policies(dtype: str) -> None:
    P, R = random_process(17, 3, 12)
    problem = mdp_of(P, R, 0.9, dtype)
    process = problem._process
    policy = reference.backup(P, R, 0.0, np.zeros(17))[1]
    chain = process.model.chain(process.place("evaluate", policy))
    v, w = np.random.default_rng(13).standard_normal((2, 17)).astype(dtype)
    rows, reward = P[np.arange(17), policy], R[np.arange(17), policy]
    expected = reward + 0.9 * rows @ (reward + 0.9 * rows @ v)
    start = v.copy()
    chain.backup(v, w, None, 2, 0.9, None)
    np.testing.assert_allclose(v, expected, rtol=0, atol=10 * TOLERANCE[dtype])
    chain.transposed().backup(start, w, None, 1, 0.9, reward.astype(dtype))
    np.testing.assert_allclose(w, reward + 0.9 * rows.T @ start, rtol=0, atol=10 * TOLERANCE[dtype])
    assert np.allclose(
        problem.evaluate(policy), reference.policy_values(P, R, 0.9, policy), atol=100 * TOLERANCE[dtype]
    )


def test_action_values_of_every_row() -> None:
    P, R = random_process(9, 3, 14)
    problem, v = mdp_of(P, R, 0.9), np.arange(9.0)
    q = problem.action_values(v)
    for s in range(9):
        own = q[problem.row_starts[s] : problem.row_starts[s + 1]]
        expected = [reference.action_value(P, R, 0.9, v, s, a) for a in reference.actions_of(R, s)]
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-13)


PROGRAM = """
import hashlib, numpy as np, fastiter
from fastiter.mdp import examples
from tests.support.guarded import copies
found = hashlib.sha256()
for dtype in (np.float32, np.float64):
    for b, states in ((1, 1), (5, 333), (6, 40), (1, 530_000)):
        process = examples.garnet(states, 3, b, 0.9, seed=b, dtype=dtype)._process
        for at_end in (False, True):
            arrays = tuple(copies(x, at_end) for x in process.arrays)
            model = fastiter._core.mdp.model(process.bits, states, arrays)
            v, w = (copies(x, at_end) for x in np.random.default_rng(b).random((2, states)).astype(dtype))
            action = copies(np.empty(states, np.int32), at_end)
            found.update(repr(model.backup(v, w, action, 3, 0.9, None)).encode() + w.tobytes() + action.tobytes())
            found.update(repr(model.sweep(w, None, states, 0.9, 1.0, True)).encode() + w.tobytes())
            q = copies(np.empty(3 * states, dtype), at_end)
            model.action_values(w, q, 0.9)
            found.update(q.tobytes())
print(found.hexdigest())
"""


def test_every_instruction_set_has_the_same_bits_and_stays_in_bounds() -> None:
    hashes = {isa: assert_runs("-c", PROGRAM, FASTITER_ISA=isa) for isa in LAST_OF_A_KIND}
    assert len(set(hashes.values())) == 1, hashes
