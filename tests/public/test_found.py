"""Calls found by the property tests, each of which once ended in another error, a warning or a changed input."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from fastiter import fixedpoint, mdp, quant, relax
from fastiter.relax import compat
from fastiter.relax._sweeps import vectors
from fastiter.relax.compat import _cache as compat_cache
from tests.support.layouts import unaligned

A = sp.csr_array(np.eye(3) * 4 + 1)
HUGE = 10**400


def tuner() -> relax.TsallisINF:
    made = relax.TsallisINF([1.0, 1.5], rng=0)
    made.predict()
    return made


REFUSED: dict[str, tuple[Callable[[Any, Any], Any], type[Exception], str]] = {
    "rtol": (lambda x, b: relax.sor(A, b, rtol=HUGE), ValueError, "sor: rtol must be finite and at least 0"),
    "omega": (lambda x, b: compat.jacobi(A, x, b, omega=HUGE), ValueError, "jacobi: omega must be finite and above 0"),
    "iterations": (lambda x, b: tuner().update(HUGE), ValueError, r"TsallisINF\.update: iterations must be from 0"),
    "arms": (lambda x, b: relax.TsallisINF([HUGE]), ValueError, "TsallisINF: arms must be at least one finite number"),
    "bins": (
        lambda x, b: relax.ContextualTsallisINF([1.0], bounds=(0.0, 1.0), bins=2**70),
        ValueError,
        "ContextualTsallisINF: bins must be at most 1000000",
    ),
    "context": (
        lambda x, b: relax.ChebCB([1.0], bounds=(0.0, 1.0)).predict(HUGE),
        ValueError,
        r"ChebCB\.predict: context must be from 0\.0 to 1\.0",
    ),
    "r": (
        lambda x, b: relax.Relaxation(A).matvec({}),  # type: ignore[arg-type]
        TypeError,
        r"Relaxation\.matvec: r must be numbers, got dtype object",
    ),
    "indices": (
        lambda x, b: compat.jacobi_indexed(A, x, b, [0, [1, 2]]),
        TypeError,
        "jacobi_indexed: indices must be a list of ints, got a ragged sequence",
    ),
    "coefficients": (
        lambda x, b: compat.polynomial(A, x, b, [1j]),
        TypeError,
        "polynomial: coefficients must be real if x is real, got dtype complex128",
    ),
    "ragged coefficients": (
        lambda x, b: compat.polynomial(A, x, b, [[0.1], -0.2]),
        TypeError,
        "polynomial: coefficients must be a list of numbers, got list",
    ),
    "a stack of columns": (
        lambda x, b: fixedpoint.refine(A.toarray()[:, :, None], np.eye(3), b),
        ValueError,
        r"refine: A must have shape \(n, n\), and b the shape \(n,\) or \(n, k\), got \(3, 3, 1\) and \(3,\)",
    ),
    "a complex A": (
        lambda x, b: compat.gauss_seidel_nr(A * 1j, x, b),
        TypeError,
        "gauss_seidel_nr: A must be real if x is real, got dtype complex128",
    ),
    "nan": (
        lambda x, b: quant.quantize(x, "int8", nan=HUGE),
        ValueError,
        "quantize: nan must be a number that a float",
    ),
    "signed": (
        lambda x, b: quant.SumOfPowers(2, 8, 1, signed=3),  # type: ignore[arg-type]
        TypeError,
        "SumOfPowers: signed must be a bool, got int",
    ),
    "x": (lambda x, b: quant.FixedArray(x * np.nan, "fixed<8,4>"), ValueError, "FixedArray: x must have no NaN"),
    "byte order": (lambda x, b: quant.FixedArray(x.astype(">f8"), "fixed<8,4>"), TypeError, "FixedArray: x must be"),
    "text": (
        lambda x, b: quant.parse("fixed<8,<4>"),
        ValueError,
        r"parse: text must be a format with fields that go together, got 'fixed<8,<4>' \(Fixed: integer must be an int",
    ),
}


NUMBERS: dict[str, Callable[[Any], Any]] = {
    "MDP: gamma must be from 0 to 1": lambda x: mdp.MDP(np.ones((1, 1, 1)), np.ones((1, 1)), x),
    "robust: radius must be finite": lambda x: mdp.robust(mdp.examples.garnet(2, 2, 2), "l1", x),
    "forest: r1 must be finite": lambda x: mdp.examples.forest(r1=x),
    "gridworld: goal must be finite": lambda x: mdp.examples.gridworld(3, goal=x),
    "inventory: price must be finite": lambda x: mdp.examples.inventory(3, price=x),
}


@pytest.mark.parametrize("message", NUMBERS)
def test_numbers_of_processes(message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        NUMBERS[message](HUGE)
    with pytest.raises(TypeError, match=f"^{message.partition(' must')[0]} must be a number"):
        NUMBERS[message]("1")


def test_seeds_and_means_of_processes() -> None:
    with pytest.raises(TypeError, match=r"^garnet: seed must be an int, got list"):
        mdp.examples.garnet(2, 2, 2, seed=[1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^gridworld: slip must be at most 0\.5"):
        mdp.examples.gridworld(3, slip=0.6)
    _, targets, first = mdp.examples.inventory(3, mean=1e4).transitions  # exp(-1e4) is 0
    assert targets[first[-2] : first[-1]].max() == 3 and np.isfinite(mdp.examples.inventory(3, mean=1e4).rewards).all()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_processes_can_be_copied_and_pickled(again: Callable[[Any], Any]) -> None:
    process = mdp.examples.garnet(5, 2, 2)
    np.testing.assert_array_equal(again(process).solve().value, process.solve().value)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name: str) -> None:
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=f"^{message}") as raised:
        call(np.zeros(3), np.ones(3))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("function", [compat.jacobi_ne, compat.gauss_seidel_nr])
def test_duplicate_entries_stay(function: Callable[..., None]) -> None:
    """scipy's abs() sums the duplicates of a matrix in place."""
    twice = sp.csr_array((np.array([1.0, 3.0, 4.0]), np.array([0, 0, 1]), np.array([0, 2, 3])), (2, 2))
    x, expected = np.zeros(2), np.zeros(2)
    function(twice, x, np.ones(2))
    assert twice.data.tolist() == [1.0, 3.0, 4.0]
    function(sp.csr_array(np.diag([4.0, 4.0])), expected, np.ones(2))
    np.testing.assert_array_equal(x, expected)


def test_any_format_of_scipy() -> None:
    """A dia_array has no max()."""
    x, expected = np.zeros(3), np.zeros(3)
    compat.jacobi_ne(A.todia(), x, np.ones(3))
    compat.jacobi_ne(A, expected, np.ones(3))
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("fmt", ["int8", "uint4"])
def test_a_scale_for_each_of_no_rows(fmt: str) -> None:
    x = np.zeros((0, 4))
    found = quant.calibrate(x, fmt, method="mse", axis=0)
    assert found.scale is not None and found.scale.shape == (0, 1)
    assert quant.quantize(x, found.fmt, scale=found.scale, zero_point=found.zero_point).shape == (0, 4)


def test_kernels_of_relaxations_get_aligned_vectors() -> None:
    """Loops may be compiled for elements at multiples of their size."""
    system = relax.Relaxation(A, "sor", omega=1.0)._system
    assert vectors.inside(system, unaligned(np.ones(3))).flags.aligned
    seen: list[bool] = []
    x, b = unaligned(np.ones(3)), unaligned(np.ones(3))
    compat_cache.in_place("jacobi", x, b, lambda *both: seen.extend(part.flags.aligned for part in both))
    assert seen == [True, True]
