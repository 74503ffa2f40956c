"""ssm.dplr_delta_rule on arrays and tensors, against the specification, torch's autograd and the delta rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fastiter
from fastiter import ssm
from fastiter.ssm import reference, reference_attention
from tests.ssm.attention_calls import DECAYS, assert_attention_near, attention_inputs
from tests.ssm.calls import assert_near, both_dtypes, some_bounds, some_lengths, some_resets
from tests.ssm.errors.test_errors import refused, shape, wrong_cuts
from tests.support.cases import assert_same_bits
from tests.support.error_cases import TYPE, VALUE, Convert, Wrong

Size = tuple[int, int, int, int, int]
every_decay = pytest.mark.parametrize("decay", DECAYS)
SIZES: list[Size] = [(1, 1, 1, 1, 1), (2, 97, 2, 3, 5), (1, 50, 4, 70, 37), (2, 13, 2, 64, 64), (3, 0, 2, 4, 5)]


def low_rank_inputs(
    size: Size, dtype: npt.DTypeLike = np.float64, decay: str = "none", **options: Any
) -> dict[str, Any]:
    """a and b of length about 0.5, so that states stay bounded"""
    given = attention_inputs(size, dtype, decay, **options).arguments()
    B, T, N, K, _ = size
    rng = np.random.default_rng([1, *size])
    a, b = (rng.standard_normal((2, B, T, N, K)) / (2 * K**0.5)).astype(dtype)
    first = {name: given.pop(name) for name in "qkv"}
    return {**first, "a": a, "b": b, **given}


def specified(given: dict[str, Any], scale: float = 1.0, **cut: Any) -> tuple[Any, Any]:
    """o and the last state of the specification, computed in float64."""
    wide = {n: x.astype(np.float64) for n, x in given.items()}
    factors = np.exp(wide["log_decay"]) if "log_decay" in wide else wide.get("decay")
    if factors is not None and factors.ndim == 1:
        factors = np.broadcast_to(factors, wide["v"].shape[:3])
    cuts = reference.Cut(*(None if cut.get(n) is None else np.asarray(cut[n]) for n in reference.Cut._fields))
    options = {"state": wide.get("state"), "cut": cuts, "correction": (wide["a"], wide["b"])}
    return reference_attention.linear_attention(wide["q"], wide["k"], wide["v"], factors, None, scale, **options)


# ---- arrays ---------------------------------------------------------------------------------------------------------


@both_dtypes
@every_decay
def test_sizes(decay: str, dtype: Any) -> None:
    for i, size in enumerate(SIZES):
        given = low_rank_inputs(size, dtype, decay, state=i % 2 == 0, shared=2 if size[2] == 4 else 1)
        found = ssm.dplr_delta_rule(**given, scale=0.3)
        assert [x.dtype for x in found] == [dtype, dtype]
        assert_attention_near(found, specified(given, 0.3), dtype, (1, 4 * size[1], 1, size[3]))


@both_dtypes
def test_resets_lengths_and_packed_rows(dtype: Any) -> None:
    for decay in ("none", "vector", "any scalar"):
        size = (3, 101, 2, 20, 9)
        given = low_rank_inputs(size, dtype, decay)
        cut: dict[str, Any]
        for cut in ({"reset": some_resets(3, 101)}, {"lengths": some_lengths(3, 101), "reset": some_resets(1, 101)[0]}):
            assert_attention_near(ssm.dplr_delta_rule(**given, **cut), specified(given, **cut), dtype, size)
        packed = low_rank_inputs((1, 101, 2, 20, 9), dtype, decay, sequences=4)
        cut = {"cu_seqlens": some_bounds(4, 101)}
        assert_attention_near(ssm.dplr_delta_rule(**packed, **cut), specified(packed, **cut), dtype, size)


@every_decay
def test_threads_and_pieces_have_the_same_bits(decay: str) -> None:
    given = low_rank_inputs((2, 150, 4, 64, 64), np.float32, decay, shared=2)
    results = []
    for threads in (1, 2, 3):
        fastiter.set_num_threads(threads)
        results.append(ssm.dplr_delta_rule(**given))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])
    state, outputs = given["state"], []
    for a, b in ((0, 1), (1, 60), (60, 150)):
        part = {n: x if n == "state" or x.ndim == 1 else x[:, a:b] for n, x in given.items()}
        o, state = ssm.dplr_delta_rule(**{**part, "state": state})
        outputs.append(o)
    assert_same_bits((np.concatenate(outputs, 1), state), results[0])


def test_the_delta_rule() -> None:
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 40, 2, 16))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    beta, decay = rng.uniform(0, 2, (2, 40, 2)), rng.uniform(0.5, 1, (2, 40, 2))
    expected = fastiter.delta_scan(q, k, v, beta, decay=decay)
    written = beta[..., None] * v
    found = ssm.dplr_delta_rule(q, k, written, decay[..., None] * k, -beta[..., None] * k, decay=decay)
    for a, e in zip(found, expected, strict=True):
        assert_near(a, e, np.float64, 60)


def test_layouts_and_storage_types() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    given = low_rank_inputs((2, 60, 2, 20, 9), np.float32, "vector", state=False)
    backwards = {n: np.ascontiguousarray(x[..., ::-1])[..., ::-1] for n, x in given.items()}
    assert_same_bits(ssm.dplr_delta_rule(**backwards), ssm.dplr_delta_rule(**given))
    heads_first = {n: np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2) for n, x in given.items()}
    assert_same_bits(ssm.dplr_delta_rule(**heads_first), ssm.dplr_delta_rule(**given))
    for dtype in (np.float16, ml_dtypes.bfloat16):
        narrow = {n: x.astype(dtype) for n, x in given.items()}
        o, last = ssm.dplr_delta_rule(**narrow)
        wide, wide_last = ssm.dplr_delta_rule(**{n: x.astype(np.float32) for n, x in narrow.items()})
        assert o.dtype == dtype
        assert_same_bits((o.view(np.uint16), last), (wide.astype(dtype).view(np.uint16), wide_last))


def test_a_reset_ends_a_nan() -> None:
    given = low_rank_inputs((1, 60, 3, 20, 9), np.float32, "vector", state=False)
    reset = np.arange(60) == 40
    expected, _ = ssm.dplr_delta_rule(**given, reset=reset)
    for value in (np.nan, np.inf):
        v = given["v"].copy()
        v[0, 30, 1, 4] = value
        o, _ = ssm.dplr_delta_rule(**{**given, "v": v}, reset=reset)
        same = np.ones(o.shape, bool)
        same[:, 30:40, 1, 4] = False
        assert np.array_equal(o[same], expected[same])


def test_the_backend_reference() -> None:
    given = low_rank_inputs((2, 9, 4, 3, 5), np.float32, "scalar", shared=2)
    found = ssm.dplr_delta_rule(**given, backend="reference", lengths=[9, 4])
    assert_attention_near(found, ssm.dplr_delta_rule(**given, lengths=[9, 4]), np.float32, (1, 36, 1, 3))


# ---- wrong arguments ------------------------------------------------------------------------------------------------

SIZE: Size = (2, 5, 4, 3, 6)


def wrong_arguments(convert: Convert, cast: Callable[[Any, str], Any]) -> Iterator[Wrong]:
    given = {n: convert(x) for n, x in low_rank_inputs(SIZE, np.float32, "vector", shared=2).items()}
    for name, x in given.items():
        yield Wrong(f"{name} is a list", {name: ["x"]}, TYPE, name, "list")
        yield Wrong(f"{name} is int32", {name: cast(x, "int32")}, TYPE, name, "int32")
        named, got = ("k", "float32") if name == "q" else (name, "float64")
        yield Wrong(f"{name} is float64", {name: cast(x, "float64")}, TYPE, named, got)
        yield Wrong(f"{name} has a rank too high", {name: x[None]}, VALUE, name, shape(x[None]))
        if name in "abk":
            yield Wrong(f"{name} is None", {name: None}, TYPE, name, "NoneType")
            yield Wrong(f"{name} is short", {name: x[..., 1:]}, VALUE, name, shape(x[..., 1:]))
    yield Wrong("two decays", {"decay": given["log_decay"]}, VALUE, "decay", "both")
    yield Wrong("scale is nan", {"scale": np.nan}, VALUE, "scale", "nan")
    yield Wrong("scale is infinite in float32", {"scale": 1e300}, VALUE, "scale", "1e.300")
    yield from wrong_cuts(convert, "q")


def test_wrong_arguments() -> None:
    right = low_rank_inputs(SIZE, np.float32, "vector", shared=2)
    refused(ssm.dplr_delta_rule, right, wrong_arguments(lambda x: x, lambda x, dtype: x.astype(dtype)))
    torch = pytest.importorskip("torch")
    import fastiter.torch

    cases = wrong_arguments(torch.from_numpy, lambda x, dtype: x.to(getattr(torch, dtype)))
    refused(fastiter.torch.ssm.dplr_delta_rule, {n: torch.from_numpy(x) for n, x in right.items()}, cases)
