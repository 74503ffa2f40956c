"""Equal bits: a sequence in two parts, a row alone, any number of threads, concurrent callers, forks."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastiter
from tests.rnn.calls import assert_runs, both_dtypes, both_ways, every_cell, full_and_ragged, python, run, some_lengths
from tests.support.cases import RNN_CELLS, STATES, RnnInputs, assert_same_bits, rnn_inputs
from tests.support.pairs import pairs

# Large enough that each gets a different plan: units (B 1), rows, heads, both, and less work than threads.
SHARED_SIZES = [(1, 9, 1, 256), (16, 9, 1, 64), (13, 9, 3, 33), (2, 7, 2, 130), (5, 12, 5, 48), (3, 2, 1, 2)]


# --- continuation ----------------------------------------------------------------------------------------------------


@pairs
@full_and_ragged
@both_ways
@both_dtypes
@every_cell
def test_the_state_continues_a_sequence(cell: str, activation: str, dtype: Any, reverse: bool, ragged: bool) -> None:
    B, T = 7, 5
    for D, split in itertools.product((5, 17), range(T + 1)):
        inputs = rnn_inputs(cell, B, T, 2, D, dtype)
        lengths = np.array(some_lengths(B, T)) if ragged else None
        whole = run(cell, activation, inputs, reverse=reverse, lengths=lengths)
        state, pieces = inputs.state, []
        for start, stop in ((split, T), (0, split)) if reverse else ((0, split), (split, T)):
            piece = inputs._replace(wx=inputs.wx[:, start:stop], state=state)
            left = None if lengths is None else np.clip(lengths - start, 0, stop - start)
            _, state, states = run(cell, activation, piece, reverse=reverse, lengths=left)
            pieces.insert(0 if reverse else 1, states)
        joined = tuple(np.concatenate(s, axis=1) for s in zip(*pieces, strict=True))
        assert_same_bits((joined[0], state, joined), whole)


@both_ways
@every_cell
def test_step_by_step_equals_all_at_once(cell: str, activation: str, reverse: bool) -> None:
    T = 6
    inputs = rnn_inputs(cell, 3, T, 2, 33, np.float32)
    whole = run(cell, activation, inputs, reverse=reverse)
    state = inputs.state
    for t in reversed(range(T)) if reverse else range(T):
        h, state, _ = run(cell, activation, inputs._replace(wx=inputs.wx[:, t : t + 1], state=state), reverse=reverse)
        assert_same_bits(h[:, 0], whole[0][:, t])
    assert_same_bits(state, whole[1])


@pytest.mark.parametrize("reverse", [False, True])
def test_slstm_starts_and_continues_in_one_batch(reverse: bool) -> None:
    wx, r, b, state = rnn_inputs("slstm", 4, 5, 2, 17, np.float32)
    state = tuple(s.copy() for s in state)
    state[2][:2] = 0
    both = run("slstm", "", RnnInputs(wx, r, b, state), reverse=reverse)
    for rows in (slice(0, 2), slice(2, 4)):
        half = run("slstm", "", RnnInputs(wx[rows], r, b, tuple(s[rows] for s in state)), reverse=reverse)
        assert_same_bits(half[2], tuple(s[rows] for s in both[2]))


# --- a row alone -----------------------------------------------------------------------------------------------------


@pairs
@full_and_ragged
@both_dtypes
@every_cell
def test_a_row_alone_equals_that_row_of_a_batch(cell: str, activation: str, dtype: Any, ragged: bool) -> None:
    B, T = 16, 4
    for D, reverse in ((33, False), (130, True), (3, False)):
        wx, r, b, state = rnn_inputs(cell, B, T, 1, D, dtype)
        lengths = some_lengths(B, T) if ragged else None
        h, last, states = run(cell, activation, RnnInputs(wx, r, b, state), reverse=reverse, lengths=lengths)
        for row in range(B):
            one = slice(row, row + 1)
            alone = RnnInputs(wx[one], r, b, tuple(s[one] for s in state))
            expected = (h[one], tuple(s[one] for s in last), tuple(s[one] for s in states))
            how = {"reverse": reverse, "lengths": None if lengths is None else lengths[one]}
            assert_same_bits(run(cell, activation, alone, **how), expected)


@every_cell
def test_a_head_alone_equals_that_head_of_several(cell: str, activation: str) -> None:
    wx, r, b, state = rnn_inputs(cell, 6, 4, 3, 33, np.float32)
    h, last, states = run(cell, activation, RnnInputs(wx, r, b, state))
    for n in range(3):
        one = slice(n, n + 1)
        alone = RnnInputs(wx[:, :, :, one], r[:, one], b[:, one], tuple(s[:, one] for s in state))
        expected = (h[:, :, one], tuple(s[:, one] for s in last), tuple(s[:, :, one] for s in states))
        assert_same_bits(run(cell, activation, alone), expected)


@every_cell
def test_rows_permuted_with_their_lengths(cell: str, activation: str) -> None:
    B, T = 13, 5
    wx, r, b, state = rnn_inputs(cell, B, T, 2, 17, np.float32)
    lengths, order = np.array(some_lengths(B, T)), np.random.default_rng(0).permutation(B)
    h, last, _ = run(cell, activation, RnnInputs(wx, r, b, state), lengths=lengths)
    moved = RnnInputs(wx[order], r, b, tuple(s[order] for s in state))
    expected = (h[order], tuple(s[order] for s in last))
    assert_same_bits(run(cell, activation, moved, lengths=lengths[order])[:2], expected)


# --- threads ---------------------------------------------------------------------------------------------------------


@pairs
@full_and_ragged
@both_ways
@both_dtypes
@every_cell
def test_any_number_of_threads(cell: str, activation: str, dtype: Any, reverse: bool, ragged: bool) -> None:
    for B, T, N, D in SHARED_SIZES:
        inputs = rnn_inputs(cell, B, T, N, D, dtype)
        how = {"reverse": reverse, "lengths": some_lengths(B, T) if ragged else None}
        fastiter.set_num_threads(1)
        expected = run(cell, activation, inputs, **how)
        for threads in (2, 3, 5):
            fastiter.set_num_threads(threads)
            assert_same_bits(run(cell, activation, inputs, **how), expected, f"{(B, T, N, D)}, {threads} threads")


def test_many_python_threads_at_once() -> None:
    jobs = []
    for (cell, activation), size in itertools.product(RNN_CELLS, SHARED_SIZES[1:]):
        inputs = rnn_inputs(cell, *size, np.float32)
        jobs.append((cell, activation, inputs, run(cell, activation, inputs)))

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for i in rng.integers(0, len(jobs), 40):
            cell, activation, inputs, expected = jobs[i]
            fastiter.set_num_threads(int(rng.integers(1, 5)))
            assert_same_bits(run(cell, activation, inputs), expected)

    with ThreadPoolExecutor(6) as callers:
        list(callers.map(work, range(6)))


def test_the_default_number_of_threads_comes_back() -> None:
    default = fastiter.get_num_threads()
    for threads in (1, 3, 256):
        fastiter.set_num_threads(threads)
        assert fastiter.get_num_threads() == threads
    fastiter.set_num_threads(np.int32(2))  # type: ignore[arg-type]
    assert fastiter.get_num_threads() == 2
    fastiter.set_num_threads(None)
    assert fastiter.get_num_threads() == default


IN_POOL = """
import ctypes, sys
if sys.argv[2] == "torch":
    import torch
elif sys.argv[2]:
    ctypes.CDLL(sys.argv[2], ctypes.RTLD_GLOBAL)
import fastiter, pytest
assert fastiter._core.thread_pool() == sys.argv[1], fastiter._core.thread_pool()
names = "(any_number and f32 and forward) or many_python"
quick = ["--assert=plain", "-p", "no:hypothesispytest", "-p", "no:cacheprovider"]
sys.exit(pytest.main(["-q", "-W", "error", *quick, "tests/rnn/test_exact.py", "-k", names]))
"""

# Each thread pool, and OpenMP granting fewer threads than requested: torch or its library alone loads OpenMP.
POOLS = {
    "own": ("fastiter", "", {}),
    "openmp": ("OpenMP of the process", "torch", {}),
    "openmp with a limit": ("OpenMP of the process", "libgomp", {"OMP_THREAD_LIMIT": "2"}),
    "openmp that decides itself": ("OpenMP of the process", "libgomp", {"OMP_DYNAMIC": "true"}),
}


@pytest.mark.parametrize("case", POOLS)
def test_threads_of_either_pool(case: str) -> None:
    pool, library, environment = POOLS[case]
    if library == "libgomp":
        torch = importlib.util.find_spec("torch")
        own = [] if torch is None else sorted(Path(str(torch.origin)).parent.glob("lib/libgomp*"))
        if not own:
            pytest.skip("torch is not installed, or has another OpenMP library")
        library = str(own[0])
    elif library:
        pytest.importorskip(library)
    assert_runs("-c", IN_POOL, pool, library, **environment)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell which cores a process may use")
def test_the_default_is_the_number_of_cores_of_the_process() -> None:
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import fastiter; "
    assert assert_runs("-c", script + "print(fastiter.get_num_threads())").split() == ["1"]
    torch = pytest.importorskip("torch")
    script = "import torch, fastiter; torch.set_num_threads(3); print(fastiter.get_num_threads())"
    assert assert_runs("-c", script).split() == ["3"]
    torch.set_num_threads(3)  # tests import fastiter first
    assert fastiter.get_num_threads() == 3


# --- fork ------------------------------------------------------------------------------------------------------------

FORK = """
import multiprocessing, sys, threading
import numpy as np
if sys.argv[1] == "torch":
    import torch
import fastiter
from tests.support.cases import RNN_CELLS, assert_same_bits, rnn_inputs
from tests.rnn.calls import run

fastiter.set_num_threads(3)
sizes = [(1, 9, 1, 256), (16, 9, 2, 64)]
jobs = [(*cell, rnn_inputs(cell[0], *size, np.float32)) for cell in RNN_CELLS for size in sizes]
expected = [run(*job) for job in jobs]

def check(generations):
    for job, e in zip(jobs, expected):
        assert_same_bits(run(*job), e)
    if generations:
        fork(generations - 1)

def fork(generations):
    child = multiprocessing.get_context("fork").Process(target=check, args=(generations,))
    child.start()
    check(0)
    child.join(60)
    assert child.exitcode == 0, child.exitcode

fork(1)

# Another thread is in the middle of a call, at any point of it, when the process forks.
stop = threading.Event()
def busy():
    while not stop.is_set():
        run(*jobs[2])
other = threading.Thread(target=busy)
other.start()
for _ in range(10):
    fork(0)
stop.set()
other.join()
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="fork is how Linux starts its worker processes")
@pytest.mark.parametrize("torch", ["no", "torch"])
def test_fork_after_a_call_in_several_threads(torch: str) -> None:
    if torch == "torch":
        pytest.importorskip("torch")
    assert assert_runs("-c", FORK, torch).split() == ["done"]


# --- the process -----------------------------------------------------------------------------------------------------


def test_import_loads_only_numpy() -> None:
    script = "import sys, fastiter; print(*sorted({'torch', 'triton', 'cupy', 'scipy'} & set(sys.modules)))"
    assert assert_runs("-c", script).split() == []


def test_the_process_exits_cleanly_with_idle_threads() -> None:
    script = (
        "import numpy as np, fastiter; from tests.support.cases import rnn_inputs; fastiter.set_num_threads(5); "
        "fastiter.lstm(*rnn_inputs('lstm', 16, 9, 1, 64, np.float32)); print(len(fastiter.lstm.__doc__) > 0)"
    )
    done = python("-X", "faulthandler", "-c", script)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["True"], "")


def test_every_cell_has_its_states() -> None:
    for cell, activation in RNN_CELLS:
        assert len(run(cell, activation, rnn_inputs(cell, 1, 1, 1, 1, np.float64))[1]) == len(STATES[cell])
