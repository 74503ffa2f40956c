"""Wrong arguments of fixed_point: one sentence each, before f is called or about the result of f."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastiter.fixedpoint import fixed_point

X = np.ones((2, 3))

WRONG: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (TypeError, "f must be callable, got int", {"f": 1}),
    (TypeError, "x0 must be numbers, got a list of <U1", {"x0": ["a"]}),
    (ValueError, "x0 must have an axis 0 of samples, got a number", {"x0": 1.0}),
    (TypeError, "x0 must be a NumPy array of .*, got dtype int64", {"x0": np.ones((2, 2), np.int64)}),
    (TypeError, r"x0\[1\] must be float64 like the first array, got float32", {"x0": (X, X.astype(np.float32))}),
    (ValueError, r"x0\['b'\] must have 2 samples, got 3", {"x0": {"a": X, "b": np.ones((3, 1))}}),
    (ValueError, "x0 must have at least one array, got an empty tuple", {"x0": ()}),
    (ValueError, "x0 must have an axis 0 of samples, got a number", {"x0": np.array(1.0)}),
    (TypeError, "x0 must be without a mask", {"x0": np.ma.masked_array(X, X > 0)}),
    (ValueError, "method must be one of 'picard', .*, got 'newton'", {"method": "newton"}),
    (TypeError, "method must be one of .*, got NoneType", {"method": None}),
    (ValueError, "rtol must be finite and at least 0, got -1", {"rtol": -1}),
    (TypeError, "atol must be a number, got str", {"atol": "1"}),
    (ValueError, "max_steps must be at least 0, got -1", {"max_steps": -1}),
    (ValueError, "norm must be one of 'l2', 'inf', 'rms', 'span', got 'l1'", {"norm": "l1"}),
    (ValueError, "patience must be at least 1, got 0", {"patience": 0}),
    (TypeError, "batched must be a bool, got int", {"batched": 1}),
    (TypeError, "compact must be a bool, got NoneType", {"compact": None}),
    (TypeError, "args must be a tuple of arrays, got ndarray|args must be a tuple of arrays, got numpy", {"args": X}),
    (ValueError, r"args\[0\] must have 2 rows, got \(3, 1\)", {"args": (np.ones((3, 1)),)}),
    (ValueError, r"args\[0\] must have 2 rows, got float", {"args": (1.0,)}),
    (TypeError, "jvp must be callable, got int", {"jvp": 1, "method": "newton_krylov"}),
    (ValueError, "jvp must be None for method 'anderson', got a function", {"jvp": np.cos}),
    (TypeError, "callback must be callable or None, got int", {"callback": 1}),
    (TypeError, "throw must be a bool, got int", {"throw": 1}),
    (TypeError, "method 'picard' takes no option 'm', only damping", {"method": "picard", "m": 3}),
    (TypeError, "method 'halpern' takes no option 'm', and none at all", {"method": "halpern", "m": 3}),
    (ValueError, "m must be at most 32, got 33", {"m": 33}),
    (ValueError, "damping must be finite and above 0, got 0", {"damping": 0}),
    (ValueError, "ridge must be finite and at least 0, got nan", {"ridge": float("nan")}),
    (ValueError, "kind must be at most 2, got 3", {"kind": 3}),
    (ValueError, "restart must be at least 2, got 1", {"restart": 1}),
    (ValueError, "history_dtype must be one of 'float32', 'bfloat16', got 'f2'", {"history_dtype": "f2"}),
    (ValueError, "history_dtype must be of half as many bits", {"history_dtype": "bfloat16"}),
    (ValueError, "halvings must be at least 0, got -1", {"method": "broyden", "halvings": -1}),
    (ValueError, "inner must be at least 1, got 0", {"method": "newton_krylov", "inner": 0}),
    (TypeError, "componentwise must be a bool, got int", {"method": "aitken", "componentwise": 1}),
    (TypeError, r"relaxation\(step\) must return a number, got str",
     {"method": "krasnoselskii_mann", "relaxation": lambda step: "a"}),
    (ValueError, r"relaxation\(step\) must return a finite number, got nan for step 0",
     {"method": "krasnoselskii_mann", "relaxation": lambda step: float("nan")}),
    (ValueError, r"relaxation\(step\) must return a finite number, got -inf for step 2",
     {"method": "krasnoselskii_mann", "relaxation": lambda step: 0.5 if step < 2 else -float("inf")}),
    (ValueError, r"norm\(state\) must return numbers of at least 0, got -3",
     {"norm": lambda x: np.abs(x).sum(axis=1) * 0 - 3}),
    (TypeError, "domain must be callable or None, got int", {"method": "squarem", "domain": 1}),
    (TypeError, "method 'picard' takes no option 'domain', only damping", {"method": "picard", "domain": np.cos}),
    (ValueError, r"domain\(x\) must return one bool for each of the 2 samples, got bool \(2, 3\)",
     {"domain": lambda x: x > 0, "rtol": 1e-12}),
    (ValueError, r"domain\(x\) must return one bool for each of the 2 samples, got float64 \(2,\)",
     {"domain": lambda x: x[:, 0], "rtol": 1e-12}),
    (ValueError, r"domain\(x\) must return one bool for each of the 2 samples, got bool",
     {"domain": lambda x: True, "rtol": 1e-12}),
    (ValueError, "largest must be at least 1, got 0.5", {"method": "squarem", "largest": 0.5}),
    (ValueError, "factor must be at least 1, got 0.5", {"method": "squarem", "factor": 0.5}),
    (TypeError, r"bounds must be two numbers \(low, high\) or None, got float", {"method": "chebyshev", "bounds": 0.5}),
    (ValueError, r"bounds must have low <= high < 1, got \(0.0, 1.0\)", {"method": "chebyshev", "bounds": (0, 1)}),
    (ValueError, r"f\(x\) must have shape \(2, 3\), got \(3, 2\)", {"f": lambda x: x.T}),
    (TypeError, r"f\(x\) must be a NumPy array of float64 like x0, got float32", {"f": lambda x: x.astype(np.float32)}),
    (TypeError, r"f\(x\) must be a NumPy array of float64 like x0, got list", {"f": lambda x: x.tolist()}),
    (TypeError, r"f\(x\) must be a tuple like x0, got numpy.ndarray", {"x0": (X, X), "f": lambda x: x[0]}),
    (ValueError, r"f\(x\) must have 2 arrays like x0, got 1", {"x0": (X, X), "f": lambda x: x[:1]}),
    (ValueError, r"f\(x\) must have the keys \['a'\] like x0, got \['b'\]", {"x0": {"a": X}, "f": lambda x: {"b": X}}),
    (ValueError, r"jvp\(x, v\) must have shape \(2, 3\), got \(2,\)",
     {"method": "newton_krylov", "jvp": lambda x, v: v[:, 0]}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "wrong"), WRONG, ids=[message[:40] for _, message, _ in WRONG])
def test_wrong_arguments_raise_one_sentence(error: type[Exception], message: str, wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {"f": np.cos, "x0": X, **wrong}
    with pytest.raises(error, match=f"^fixed_point: {message}"):
        fixed_point(given.pop("f"), given.pop("x0"), **given)


def test_errors_of_f_are_its_own() -> None:
    def f(x: Any) -> Any:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match=r"^mine$"):
        fixed_point(f, X)
