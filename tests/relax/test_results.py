"""Reports of solvers: refusal of infinities and NaN, warnings, exceptions, callbacks, solutions."""

from __future__ import annotations

import gc
import inspect
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy.sparse")

import fastiter
from fastiter import relax
from fastiter.relax import Anderson, Chebyshev, Relaxation, Stencil
from fastiter.relax._solvers import relaxation
from tests.relax.cases import attempt, poisson

A = poisson(8, 8)
B = np.ones(64)
#: Every solver, as a function of b, x0 and options, by the name at the beginning of its messages
SOLVERS: dict[str, Callable[..., Any]] = {
    **{
        name: partial(getattr(relax, name), A)
        for name in ("sor", "ssor", "gauss_seidel", "jacobi", "kaczmarz", "chebyshev", "ssor_cg", "flexible_cg")
    },
    "block_jacobi": partial(relax.block_jacobi, A, block_size=2),
    "Relaxation.solve": Relaxation(A).solve,
    "Chebyshev.solve": Chebyshev(Relaxation(A, "jacobi")).solve,
    "Anderson.solve": Anderson(Relaxation(A, "jacobi")).solve,
}


@pytest.mark.parametrize("name", SOLVERS)
def test_infinities_and_nan_are_refused_by_index(name: str) -> None:
    for value, shape, index in ((np.nan, (64,), 5), (np.inf, (64, 2), (3, 1))):
        wrong = np.ones(shape)
        wrong[index] = value
        where = str(index).replace("(", r"\(").replace(")", r"\)")
        for what, args in (("b", (wrong,)), ("x0", (np.ones(shape), wrong))):
            with pytest.raises(ValueError, match=rf"^{name}: {what} must be finite, got {value} at index {where}$"):
                SOLVERS[name](*args)
    grid, mask = np.ones((4, 5)), np.ones((4, 5), bool)
    mask[1, 2], grid[1, 2] = False, np.nan  # a point without an equation, whose b is not read
    stencil = Stencil((4, 5), np.array([4.0, -1, -1, -1, -1]), mask)
    assert relax.sor(stencil, grid).converged


@pytest.mark.parametrize("name", SOLVERS)
def test_failures_to_converge_warn_or_raise(name: str) -> None:
    solve = SOLVERS[name]
    match = rf"^{name}: \|\|b - A x\|\| must fall to 8e-08, got [\d.]+ after 2 steps \('max_steps'\); try a larger"
    with pytest.warns(fastiter.ConvergenceWarning, match=match) as caught:
        found = solve(B, max_steps=2)
    assert caught[0].filename == __file__
    assert (found.steps, found.converged, found.reason) == (2, False, "max_steps")
    assert found.tolerance == pytest.approx(8e-8)
    assert found.residual == pytest.approx(np.linalg.norm(B - A @ found.value))
    with pytest.raises(fastiter.ConvergenceError, match=match) as raised:
        solve(B, max_steps=2, throw=True)
    np.testing.assert_array_equal(raised.value.solution.value, found.value)
    with pytest.raises(fastiter.ConvergenceError, match=r"\|\|b - A x\|\| must fall to 8e-08, got"):
        found.raise_if_failed()
    solve(B, throw=True).raise_if_failed()
    with pytest.raises(TypeError, match=f"^{name}: throw must be a bool, got int$"):
        solve(B, throw=1)


def test_the_worst_column_is_named() -> None:
    found = attempt(relax.gauss_seidel, A, np.stack([B, 0 * B, 5 * B, B], axis=1), max_steps=3)
    assert found.converged.tolist() == [False, True, False, False]
    with pytest.raises(fastiter.ConvergenceError, match=r"in column [023], the worst of 3 out of 4 that failed"):
        found.raise_if_failed()


@pytest.mark.parametrize("name", SOLVERS)
def test_callbacks_see_each_check_and_may_stop(name: str) -> None:
    solve, seen = SOLVERS[name], []

    def look(progress: Any) -> Any:
        residual = np.linalg.norm(B - A @ progress.value)
        assert progress.residual == pytest.approx(residual, rel=1e-6)
        assert progress.tolerance == pytest.approx(8e-8)
        seen.append(progress)
        return None

    full = solve(B, check_every=3, callback=look)
    assert [progress.steps for progress in seen] == list(range(0, full.steps, 3))
    assert [progress.residual for progress in seen] == full.history[:-1].tolist()
    assert all(isinstance(progress, fastiter.Progress) and progress.active is None for progress in seen)
    stopped = attempt(solve, B, check_every=2, callback=lambda progress: progress.steps == 4)
    assert (stopped.steps, stopped.reason, stopped.converged) == (4, "callback", False)
    two = np.stack([B, 0 * B], axis=1)
    both = attempt(solve, two, check_every=2, callback=lambda p: np.bool_(p.steps == 4 and p.active.tolist() == [0]))
    assert both.reason == ("callback", "converged") and both.steps.tolist() == [4, 0]
    assert solve(B, callback=lambda progress: "text").converged  # only True ends a solution
    with pytest.raises(TypeError, match=f"^{name}: callback must be callable or None, got int$"):
        solve(B, callback=3)


def cycles_of_ours() -> list[str]:
    """Return what the collector finds in cycles and this package has made; other threads leave cycles, too."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        garbage = list(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    places = [str((type(x).__module__, getattr(x, "__module__", ""), getattr(x, "gi_code", ""))) for x in garbage]
    return [place for place in places if "fastiter" in place]


@pytest.fixture
def frozen() -> Iterator[None]:
    """Keep the collector from visiting the objects of other tests, which takes it most of its time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_a_cycle_is_found(frozen: None) -> None:
    progress = fastiter.Progress(0, 0.0, 0.0, numbers={})
    progress.numbers["own"] = progress
    del progress
    assert cycles_of_ours()


def test_solutions_leave_no_cycles(frozen: None) -> None:
    """Arrays are freed at once, not when Python next looks for cycles."""
    for name, b in itertools.product(SOLVERS, (B, np.stack([B, 2 * B], axis=1))):
        for options in ({}, {"callback": lambda progress: progress.value is None}):
            SOLVERS[name](b, **options)
            gc.collect()
            SOLVERS[name](b, **options)
            assert cycles_of_ours() == [], name


def test_sequences_have_callbacks() -> None:
    tuner, seen = relax.TsallisINF([1.0, 1.5], rng=0), []
    found = relax.solve_sequence([(A, B)] * 9, tuner, callback=lambda progress: seen.append(progress) or len(seen) == 4)
    assert found.solutions == tuple(progress.solution for progress in seen) and len(seen) == 4
    assert [progress.system for progress in seen] == list(range(4))
    assert [progress.omega for progress in seen] == found.omegas.tolist()
    assert [progress.steps for progress in seen] == found.steps.tolist()
    assert all(np.array_equal(x, progress.value) for x, progress in zip(found.value, seen, strict=True))
    assert repr(found) == f"SequenceSolution(4 of 4 systems converged, {found.steps.sum()} steps in all)"
    found.raise_if_failed()


def test_solutions_are_one_line_and_compare_by_identity() -> None:
    found = relax.sor(A, np.stack([B, 2 * B], axis=1), omega=1.5)
    steps = f"{found.steps.min()} to {found.steps.max()}"
    pattern = rf"LinearSolution\(sor, 'converged' after ({steps}|\d+) steps, residual \S+( to \S+)?, omega 1.5, value"
    assert re.match(pattern, repr(found)), repr(found)
    assert repr(found).endswith("value (64, 2) float64)")
    assert found == found and found != relax.sor(A, B) and hash(found)
    assert isinstance(found, fastiter.Solution)


def test_omega_is_estimated_only_where_it_can_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    estimates: list[str] = []
    choose = relaxation.choice_of
    monkeypatch.setattr(relaxation, "choice_of", lambda *args: estimates.append(args[1]) or choose(*args))
    easy = poisson(30, 30) + 8 * np.eye(900)
    for solve in (relax.sor, relax.ssor):
        assert solve(np.asarray(easy), np.ones(900)).steps == solve(np.asarray(easy), np.ones(900), omega=1.0).steps
    assert Relaxation(poisson(30, 30)).colors == 1
    assert not estimates
    hard = relax.sor(poisson(30, 30), np.ones(900))
    assert hard.omega > 1.5 and estimates == ["sor"]
    assert hard.steps < relax.gauss_seidel(poisson(30, 30), np.ones(900)).steps / 5


INTERRUPTED = (
    "Relaxation(A).sweep(x, b, 10**9)",
    "gauss_seidel(A, b, **long)",
    "chebyshev(A, b, bounds=(0.1, 2), **long)",
)


def test_control_c_stops_kernels_promptly() -> None:
    """A separate process gets signals while kernels run, and reports the CPU time until each stopped."""
    script = (
        "import os, signal, sys, threading, time, fastiter, numpy as np, scipy.sparse as sp\n"
        "from fastiter.relax import Relaxation, chebyshev, gauss_seidel\n"
        "line = sp.diags_array([-1.0, 2, -1], offsets=[-1, 0, 1], shape=(400, 400))\n"
        "A = (sp.kron(line, sp.eye_array(400)) + sp.kron(sp.eye_array(400), line)).tocsr()\n"
        "x, b, sent = np.zeros(160000), np.ones(160000), []\n"
        "long = {'max_steps': 10**9, 'check_every': 10**9, 'rtol': 0.0}\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def send():\n    sent.append(time.process_time())\n    os.kill(os.getpid(), signal.SIGINT)\n"
        f"for call in ({', '.join(f'lambda: {call}' for call in INTERRUPTED)}):\n"
        "    threading.Timer(0.3, send).start()\n"
        "    try:\n        call()\n    except KeyboardInterrupt:\n"
        "        print((time.process_time() - sent.pop()) / fastiter.get_num_threads())\n"
    )
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    times = [float(x) for x in found.stdout.split()]
    assert len(times) == len(INTERRUPTED) and max(times) < 0.5, times


def documented() -> dict[str, Callable[..., Any]]:
    """Return the public functions and classes, and their methods, that have arguments, by name."""
    found = {f"relax.{name}": getattr(relax, name) for name in relax.__all__}
    found |= {f"compat.{name}": getattr(relax.compat, name) for name in relax.compat.__all__}
    classes = [x for x in found.values() if inspect.isclass(x)]
    found |= {f"{of.__name__}.{name}": x for of in classes for name, x in vars(of).items() if name[0] != "_"}
    results = {relax.LinearSolution, relax.SequenceSolution}  # which users do not construct
    found = {name: x for name, x in found.items() if inspect.isfunction(x) or x in {*classes} - results}
    return {name: x for name, x in found.items() if {*inspect.signature(x).parameters} - {"self"}}


@pytest.mark.parametrize("name", documented())
def test_each_argument_is_documented(name: str) -> None:
    function = documented()[name]
    text = inspect.getdoc(function)
    assert text is not None and "%(" not in text
    sections = re.split(r"^([A-Z][A-Za-z ]+)\n-+\n", text, flags=re.MULTILINE)
    parts = dict(zip(sections[1::2], sections[2::2], strict=True))
    lines = re.findall(r"^([\w, ]+?) : .", parts["Parameters"], flags=re.MULTILINE)  # with types or shapes
    names = [name for line in lines for name in line.split(", ")]
    assert sorted(names) == sorted(set(inspect.signature(function).parameters) - {"self"})
    assert inspect.isclass(function) or "Raises" in parts
    assert "See Also" in parts or inspect.isclass(function) or not name.startswith(("relax.", "compat."))
    assert not name.startswith("relax") or {"Returns", "Examples"} & {*parts}
