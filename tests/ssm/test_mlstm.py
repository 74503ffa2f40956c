"""ssm.mlstm on arrays, against the specification and the equations without a running maximum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter import ssm
from tests.ssm.calls import both_dtypes, some_bounds, some_lengths, some_resets
from tests.ssm.mlstm_calls import assert_mlstm_near, mlstm_inputs, specified
from tests.support.cases import assert_same_bits

SIZES = [
    *((1, 1, 1, 1, 1), (2, 97, 2, 3, 5), (1, 50, 4, 70, 37), (2, 13, 2, 64, 64), (3, 0, 2, 4, 5), (0, 4, 2, 3, 5)),
]


def flat(result: Any) -> tuple[Any, ...]:
    return (result[0], *result[1])


def test_the_specification_does_not_depend_on_the_maximum() -> None:
    """e^m cancels from the equations: a first state with another m, scaled to match, gives the same h."""
    inputs = mlstm_inputs((2, 9, 2, 3, 4))
    C, n, m = inputs["state"]
    h, (last_C, _, last_m) = specified(inputs, eps=0.0)
    other = {**inputs, "state": (C * np.exp(1.5), n * np.exp(1.5), m - 1.5)}
    g, (other_C, _, other_m) = specified(other, eps=0.0)
    np.testing.assert_allclose(g, h, rtol=1e-10)
    np.testing.assert_allclose(other_C * np.exp(other_m)[..., None, None], last_C * np.exp(last_m)[..., None, None])
    total = np.zeros((2, 2, 3, 4))  # and without m at all
    norm = np.zeros((2, 2, 3))
    plain = specified({k: x for k, x in inputs.items() if k != "state"}, eps=0.0)[0]
    for t in range(9):
        forget, enter = 1 / (1 + np.exp(-inputs["f"][:, t])), np.exp(inputs["i"][:, t])
        k, v, q = (inputs[name][:, t] for name in "kvq")
        total = forget[..., None, None] * total + enter[..., None, None] * k[..., None] * v[..., None, :]
        norm = forget[..., None] * norm + enter[..., None] * k
        read = 3**-0.5 * (total * q[..., None]).sum(2)
        divisor = np.maximum(np.abs(3**-0.5 * (norm * q).sum(-1)), 1)
        np.testing.assert_allclose(plain[:, t], read / divisor[..., None], rtol=1e-10)


@both_dtypes
def test_sizes(dtype: Any) -> None:
    for i, size in enumerate(SIZES):
        inputs = mlstm_inputs(size, dtype, state=i % 2 == 0, shared=2 if size[2] == 4 else 1)
        found = ssm.mlstm(**inputs, eps=1e-3)
        assert {x.dtype for x in flat(found)} == {np.dtype(dtype)}
        assert_mlstm_near(found, specified(inputs, eps=1e-3), dtype)


@both_dtypes
def test_resets_lengths_and_packed_rows(dtype: Any) -> None:
    inputs = mlstm_inputs((3, 101, 2, 20, 9), dtype)
    for cut in (
        {"reset": some_resets(3, 101)},
        {"lengths": some_lengths(3, 101), "reset": some_resets(1, 101)[0]},
    ):
        assert_mlstm_near(ssm.mlstm(**inputs, **cut), specified(inputs, **cut), dtype)
    packed = mlstm_inputs((1, 101, 2, 20, 9), dtype, sequences=4)
    cut = {"cu_seqlens": some_bounds(4, 101)}
    assert_mlstm_near(ssm.mlstm(**packed, **cut), specified(packed, **cut), dtype)


def test_threads_and_pieces_have_the_same_bits() -> None:
    inputs = mlstm_inputs((2, 200, 4, 64, 64), np.float32, shared=2)
    results = []
    for threads in (1, 2, 3):
        fastiter.set_num_threads(threads)
        results.append(flat(ssm.mlstm(**inputs)))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])
    state, outputs = inputs["state"], []
    for a, b in ((0, 1), (1, 60), (60, 200)):
        part = {n: inputs[n][:, a:b] for n in "qkvif"}
        h, state = ssm.mlstm(**part, state=state)
        outputs.append(h)
    assert_same_bits((np.concatenate(outputs, 1), *state), results[0])


def test_layouts_and_storage() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    inputs = mlstm_inputs((2, 60, 2, 20, 9), np.float32, state=False)
    first = {n: np.ascontiguousarray(np.moveaxis(x, 1, -2 if x.ndim > 3 else -1)) for n, x in inputs.items()}
    heads_first = {n: np.moveaxis(x, -2 if x.ndim > 3 else -1, 1) for n, x in first.items()}
    assert_same_bits(flat(ssm.mlstm(**heads_first)), flat(ssm.mlstm(**inputs)))
    for dtype in (np.float16, ml_dtypes.bfloat16):
        narrow = {n: x.astype(dtype) for n, x in inputs.items()}
        h, last = ssm.mlstm(**narrow)
        wide, wide_last = ssm.mlstm(**{n: x.astype(np.float32) for n, x in narrow.items()})
        assert h.dtype == dtype
        assert_same_bits((h.view(np.uint16), *last), (wide.astype(dtype).view(np.uint16), *wide_last))


@both_dtypes
def test_extreme_gates(dtype: Any) -> None:
    """Gates of any finite size cause no overflow of an exponential. The products q k are positive: none cancels."""
    inputs = mlstm_inputs((1, 60, 2, 20, 9), dtype, state=False)
    inputs |= {name: np.abs(inputs[name]) for name in "qk"}
    for i, f in ((200.0, 200.0), (-200.0, 200.0), (200.0, -200.0), (1e4, -1e4), (15.0, -np.inf)):
        given = {**inputs, "i": inputs["i"] + dtype(i), "f": inputs["f"] + dtype(f)}
        found = ssm.mlstm(**given)
        assert all(np.isfinite(x).all() for x in flat(found))
        assert_mlstm_near(found, specified(given), dtype, max(abs(i), abs(f) if np.isfinite(f) else 0))
    v = inputs["v"].copy()
    v[0, 30, 1, 4] = np.nan
    h, _ = ssm.mlstm(**{**inputs, "v": v}, reset=np.arange(60) == 40)
    expected, _ = ssm.mlstm(**inputs, reset=np.arange(60) == 40)
    same = np.ones(h.shape, bool)
    same[:, 30:40, 1, 4] = False
    assert np.array_equal(h[same], expected[same])
    assert np.isnan(h[~same]).all()


def test_the_backend_reference() -> None:
    inputs = mlstm_inputs((2, 9, 4, 3, 5), np.float32, shared=2)
    found = ssm.mlstm(**inputs, scale=2, backend="reference", lengths=[9, 4])
    assert_mlstm_near(found, specified(inputs, 2.0, lengths=[9, 4]), np.float32)
