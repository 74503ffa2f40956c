"""Lists and numbers in place of arrays give the same results; arguments that are written in place must be arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter import fixedpoint, quant, relax, ssm

B, T, N, D = 2, 3, 1, 2


def whole(*shape: int) -> Any:
    """Small whole numbers, which are ints in lists and exact in all dtypes."""
    return np.random.default_rng(shape).integers(-2, 3, shape).astype(np.float64)


def matrix() -> Any:
    return 4 * np.eye(D) - 1


#: (function, its arrays, and the call with lists); a flag array is passed unchanged
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "lstm": (
        fastiter.lstm,
        {"wx": whole(B, T, 4, N, D), "r": whole(4, N, D, D), "b": whole(4, N, D), "state": (whole(B, N, D),) * 2},
    ),
    "gru": (fastiter.gru, {"wx": whole(B, T, 3, N, D), "r": whole(3, N, D, D), "state": whole(B, N, D)}),
    "elman": (fastiter.elman, {"wx": whole(B, T, 1, N, D), "r": whole(1, N, D, D), "reset": np.eye(B, T, dtype=bool)}),
    "slstm": (fastiter.slstm, {"wx": whole(B, T, 4, N, D), "r": whole(4, N, D, D)}),
    "paragru": (fastiter.paragru, {"wx": whole(B, T, 3, D), "a": whole(3, D), "state": whole(B, D)}),
    "paralstm": (fastiter.paralstm, {"wx": whole(B, T, 3, D), "a": whole(3, D), "p": whole(2, D)}),
    "linear_scan": (fastiter.linear_scan, {"a": whole(D), "x": whole(B, T, D), "state": whole(B, D)}),
    "linear_scan, a number": (fastiter.linear_scan, {"a": np.array(2.0), "x": whole(B, T, D)}),
    "block_scan": (fastiter.block_scan, {"A": whole(T, N, D, D), "x": whole(B, T, N, D)}),
    "delta_scan": (
        fastiter.delta_scan,
        {"q": whole(B, T, N, D), "k": whole(B, T, N, D), "v": whole(B, T, N, D), "beta": whole(B, T, N)},
    ),
    "selective_scan": (
        ssm.selective_scan,
        {"u": whole(B, D, T), "delta": whole(B, D, T), "A": whole(D, N), "B": whole(B, N, T), "C": whole(B, N, T)},
    ),
    "causal_conv1d": (ssm.causal_conv1d, {"x": whole(B, D, T), "weight": whole(D, 2), "bias": whole(D)}),
    "linear_attention": (
        ssm.linear_attention,
        {"q": whole(B, T, N, D), "k": whole(B, T, N, D), "v": whole(B, T, N, D), "decay": whole(N)},
    ),
    "dplr_delta_rule": (ssm.dplr_delta_rule, {name: whole(B, T, N, D) for name in "qkvab"}),
    "mlstm": (
        ssm.mlstm,
        {**{name: whole(B, T, N, D) for name in "qkv"}, "i": whole(B, T, N), "f": whole(B, T, N)},
    ),
    "ssd": (
        ssm.ssd,
        {"x": whole(B, T, N, D), "dt": whole(B, T, N), "A": whole(N), "B": whole(B, T, N, D), "C": whole(B, T, N, D)},
    ),
    "quantize": (lambda x: quant.quantize(x, "int8"), {"x": whole(B, D)}),
    "encode": (lambda x: quant.encode(x, "int8"), {"x": whole(B, D)}),
    "quant_matmul": (lambda a, b: quant.quant_matmul(a, b, "int8", "int8"), {"a": whole(B, D), "b": whole(D, B)}),
    "sor": (lambda A, b, x0: relax.sor(A, b, x0).value, {"A": matrix(), "b": whole(D), "x0": whole(D)}),
    "refine": (
        lambda b, x0: fixedpoint.refine(lambda x: matrix().astype(x.dtype) @ x, lambda r: r / 4, b, x0).value,
        {"b": whole(D), "x0": whole(D) + 1},
    ),
    "kaczmarz": (lambda A, b: relax.kaczmarz(A, b).value, {"A": matrix(), "b": whole(D)}),
    "chebyshev": (lambda A, b: relax.chebyshev(A, b, bounds=(0.5, 1.5)).value, {"A": matrix(), "b": whole(D)}),
    "ssor_cg": (lambda A, b: relax.ssor_cg(A, b).value, {"A": matrix(), "b": whole(D)}),
    "flexible_cg": (lambda A, b: relax.flexible_cg(A, b).value, {"A": matrix(), "b": whole(D)}),
    "residual": (lambda A, x, b: relax.Relaxation(A).residual(x, b), {"A": matrix(), "x": whole(D), "b": whole(D)}),
    "Stencil": (
        lambda coefficients, mask: relax.Stencil((2, 2), coefficients, mask).coefficients,
        {"coefficients": np.array([4.0, -1, -1, -1, -1]), "mask": np.eye(2, dtype=bool)},
    ),
}


def listed(x: Any) -> Any:
    """Return an array as a list of numbers, whole ones as ints, and a state as a tuple of such lists."""
    if isinstance(x, tuple):
        return tuple(map(listed, x))
    return (x if x.dtype == bool else x.astype(int)).tolist()


def cast(x: Any, dtype: str) -> Any:
    if isinstance(x, tuple):
        return tuple(cast(part, dtype) for part in x)
    return x if x.dtype == bool else x.astype(dtype)


def leaves(x: Any) -> list[Any]:
    return [leaf for part in x for leaf in leaves(part)] if isinstance(x, tuple) else [x]


def assert_equal(actual: Any, expected: Any) -> None:
    for x, y in zip(leaves(actual), leaves(expected), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", CALLS)
def test_lists_equal_arrays(name: str) -> None:
    call, arrays = CALLS[name]
    assert_equal(call(**{key: listed(x) for key, x in arrays.items()}), call(**arrays))
    key, first = next(iter(arrays.items()))
    for dtype in ("float32", "float64"):  # lists take the dtype of an array beside them
        others = {key: listed(x) for key, x in arrays.items()}
        assert_equal(
            call(**{**others, key: cast(first, dtype)}), call(**{key: cast(x, dtype) for key, x in arrays.items()})
        )


def test_float16_beside_lists() -> None:
    q, decay = whole(B, T, N, D).astype(np.float16), [0.5]
    expected = ssm.linear_attention(q, q, q, decay=np.array(decay, np.float32))
    assert_equal(ssm.linear_attention(q, q.tolist(), q, decay=decay), expected)


def test_objects_that_numpy_reads() -> None:
    class Table:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return whole(B, T, D)

    assert_equal(fastiter.linear_scan(0.5, Table()), fastiter.linear_scan(np.array(0.5), whole(B, T, D)))


X = np.ones((1, 2, 1))
WRONG: list[tuple[type[Exception], str, Callable[[], Any]]] = [
    (
        TypeError,
        r"x must be .* \(x.astype\(float\) is\), got dtype int64",
        lambda: fastiter.linear_scan(X, X.astype(int)),
    ),
    (TypeError, "a must be numbers, got a list of <U1", lambda: fastiter.linear_scan(["a"], X)),
    (TypeError, "a must be numbers, got a list of bool", lambda: fastiter.linear_scan([True], X)),
    (TypeError, "a must be numbers, got a list of object", lambda: fastiter.linear_scan([None], X)),
    (TypeError, "a must be numbers, got a list of complex128", lambda: fastiter.linear_scan([1j], X)),
    (
        ValueError,
        "a must be numbers in rows of one length, got a ragged list",
        lambda: fastiter.linear_scan([[1], []], X),
    ),
    (
        ValueError,
        "a must have whole numbers up to 16777216 for float32, got 16777217",
        lambda: fastiter.linear_scan([-16777217], X.astype(np.float32)),
    ),
    (
        TypeError,
        r"a must be without a mask \(x.filled\(value\) is\), got a masked array",
        lambda: fastiter.linear_scan([np.ma.masked_array([1.0])], X),
    ),
    (TypeError, "out must be a NumPy array of .*, got list", lambda: fastiter.linear_scan(X, X, out=X.tolist())),
    (TypeError, "x must be a NumPy array of float64, got list", lambda: relax.Relaxation([[1.0]]).sweep([0.0], [1.0])),
    (
        TypeError,
        "conv_state must be a NumPy array of .*, got list",
        lambda: ssm.causal_conv1d_update([[1.0]], [[[0.0]]], [[1.0, 1.0]]),
    ),
    (
        TypeError,
        "state must be a NumPy array of .*, got list",
        lambda: ssm.selective_state_update([[[1.0]]], *[np.ones((1, 1))] * 5),
    ),
]


@pytest.mark.parametrize(("error", "message", "call"), WRONG)
def test_anything_but_array_likes_is_refused(error: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=message) as raised:
        call()
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)


def test_tensors_are_not_arrays() -> None:
    torch = pytest.importorskip("torch")
    for a in (torch.ones(1), [torch.ones(1)]):
        with pytest.raises(TypeError, match=r"linear_scan: a must be .*, got .*torch\.Tensor"):
            fastiter.linear_scan(a, X)


def test_states_of_bfloat16_beside_lists() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    wx, r, state = whole(B, T, 4, N, D).astype(bfloat16), whole(4, N, D, D), whole(B, N, D)
    expected = fastiter.lstm(wx, r.astype(bfloat16), None, (state.astype(bfloat16), state.astype(np.float32)))
    assert_equal(fastiter.lstm(wx, listed(r), None, (listed(state), listed(state))), expected)
