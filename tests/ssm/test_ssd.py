"""ssd on arrays and tensors, against the selective scan, which gives the same if all rates of a head are equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fastiter import ssm
from tests.ssm.calls import assert_near, both_dtypes, some_bounds, some_lengths, some_resets
from tests.ssm.errors.test_errors import refused, shape, wrong_cuts
from tests.support.error_cases import TYPE, VALUE, Convert, Wrong

Size = tuple[int, int, int, int, int, int]  # (B, T, H, P, G, N)


def ssd_inputs(size: Size, dtype: npt.DTypeLike = np.float64, sequences: int | None = None) -> dict[str, Any]:
    batch, time, heads, width, groups, states = size
    rng = np.random.default_rng(size)

    def normal(*axes: int) -> Any:
        return rng.standard_normal(axes).astype(dtype)

    return {
        "x": normal(batch, time, heads, width),
        "dt": normal(batch, time, heads),
        "A": -np.exp(normal(heads)),
        "B": normal(batch, time, groups, states),
        "C": normal(batch, time, groups, states),
        "D": normal(heads, width),
        "z": normal(batch, time, heads, width),
        "dt_bias": normal(heads),
        "state": normal(batch if sequences is None else sequences, heads, width, states),
    }


def as_selective(given: dict[str, Any], library: Any = np) -> dict[str, Any]:
    """The arguments of a selective scan whose channels are those of all heads."""
    (batch, time, heads, width), states = given["x"].shape, given["B"].shape[-1]
    channels = heads * width

    def spread(x: Any) -> Any:  # repeats the number of each head for its channels
        return library.broadcast_to(x[..., None], (*x.shape, width))

    def signal(x: Any) -> Any:
        return x.reshape(batch, time, channels).swapaxes(1, 2)

    names = {"u": signal(given["x"]), "delta": signal(spread(given["dt"])), "z": signal(given["z"])}
    rates = library.broadcast_to(spread(given["A"])[..., None], (heads, width, states)).reshape(channels, states)
    weights = {name: library.moveaxis(given[name], 1, -1) for name in "BC"}
    D = given["D"] if given["D"].ndim == 2 else spread(given["D"])
    first = given["state"]
    return {
        **names,
        **weights,
        "A": rates,
        "D": D.reshape(channels),
        "delta_bias": spread(given["dt_bias"]).reshape(channels),
        "state": first.reshape(first.shape[0], channels, states),
    }


def as_heads(size: Size, out: Any, last: Any) -> tuple[Any, Any]:
    _, _, heads, width, _, states = size
    out = out.swapaxes(1, 2).reshape(out.shape[0], out.shape[2], heads, width)
    return out, last.reshape(last.shape[0], heads, width, states)


@both_dtypes
@pytest.mark.parametrize(
    "size", [(1, 1, 1, 1, 1, 1), (2, 97, 4, 5, 2, 3), (1, 60, 2, 64, 1, 33), (2, 0, 2, 3, 1, 4)], ids=str
)
def test_arrays(size: Size, dtype: Any) -> None:
    given = ssd_inputs(size, dtype)
    for cut in ({}, {"reset": some_resets(size[0], size[1])}, {"lengths": some_lengths(size[0], size[1])}):
        for softplus in (True, False):
            limits = (0.0, np.inf) if softplus else (-np.inf, np.inf)
            if not softplus:  # negative step sizes would let the state grow
                given |= {name: np.abs(given[name]) for name in ("dt", "dt_bias")}
            found = ssm.ssd(**given, dt_softplus=softplus, dt_limit=limits, **cut)
            wide = as_selective({n: x.astype(np.float64) for n, x in given.items()})
            result = ssm.selective_scan(**wide, delta_softplus=softplus, return_last_state=True, **cut)
            assert isinstance(result, tuple)
            expected = as_heads(size, *result)
            for name, a, e in zip(("out", "last"), found, expected, strict=True):
                assert a.dtype == dtype
                assert_near(a, e, dtype, 4 * size[1] + size[5], name)


def test_groups_of_several_heads_packed_rows_and_limits() -> None:
    size = (1, 50, 4, 5, 2, 3)
    given = ssd_inputs(size, sequences=3)
    given["D"] = given["D"][:, 0]
    cut = {"cu_seqlens": some_bounds(3, 50)}
    result = ssm.selective_scan(**as_selective(given), delta_softplus=True, return_last_state=True, **cut)
    assert isinstance(result, tuple)
    for a, e in zip(ssm.ssd(**given, dt_softplus=True, **cut), as_heads(size, *result), strict=True):
        assert_near(a, e, np.float64, 60)
    limited = ssm.ssd(**given, dt_softplus=True, dt_limit=(0.2, 0.9), **cut)
    d = np.clip(np.logaddexp(given["dt"] + given["dt_bias"], 0), 0.2, 0.9)
    for a, e in zip(limited, ssm.ssd(**{**given, "dt": d, "dt_bias": None}, **cut), strict=True):
        assert_near(a, e, np.float64, 60)


def test_storage_types() -> None:
    given = ssd_inputs((2, 30, 2, 8, 1, 4), np.float32)
    signals = ("x", "dt", "B", "C", "z")
    narrow = {n: x.astype(np.float16) if n in signals else x for n, x in given.items()}
    out, last = ssm.ssd(**narrow, dt_softplus=True)
    wide, wide_last = ssm.ssd(**{n: x.astype(np.float32) for n, x in narrow.items()}, dt_softplus=True)
    assert out.dtype == np.float16
    assert np.array_equal(out, wide.astype(np.float16))
    assert np.array_equal(last, wide_last)


def test_steps_beyond_the_lengths_affect_neither_outputs_nor_gradients() -> None:
    lengths = [4, 0]
    clean = ssd_inputs((2, 9, 4, 3, 2, 5))
    dirty = {n: x.copy() for n, x in clean.items()}
    for name in ("x", "dt", "B", "C", "z"):
        for row, length in enumerate(lengths):
            dirty[name][row, length:] = np.nan
    for a, e in zip(ssm.ssd(**dirty, lengths=lengths), ssm.ssd(**clean, lengths=lengths), strict=True):
        assert np.array_equal(a, e)
    torch = pytest.importorskip("torch")
    import fastiter.torch

    gradients = []
    for given in (clean, dirty):
        leaves = {n: torch.from_numpy(x).requires_grad_() for n, x in given.items()}
        out, last = fastiter.torch.ssm.ssd(**leaves, dt_softplus=True, lengths=lengths)
        assert not out[1].any()
        gradients.append(torch.autograd.grad(out.sum() + last.sum(), list(leaves.values())))
    for name, e, a in zip(clean, *gradients, strict=True):
        assert torch.equal(a, e), name


def test_overflow_without_warnings() -> None:
    given = ssd_inputs((1, 5, 2, 3, 1, 2), np.float32)
    given["z"][:] = -np.inf
    ssm.ssd(**given, dt_limit=(0.0, 1e300))
    half = {n: x.astype(np.float16) if x.ndim > 2 and n != "state" else x for n, x in given.items()}
    half |= {"z": None, "x": np.full_like(half["x"], 6e4)}
    assert np.isinf(ssm.ssd(**half, dt_softplus=True)[0]).any()


def test_a_wrong_backend_is_an_error_of_this_function() -> None:
    with pytest.raises(ValueError, match=r"^ssd: backend must be one of 'cpu', 'reference', got 'tpu'"):
        ssm.ssd(**ssd_inputs((1, 5, 2, 3, 1, 2)), backend="tpu")


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    import fastiter.torch

    size = (2, 60, 4, 8, 2, 5)
    arrays = ssd_inputs(size)
    given = {n: torch.from_numpy(x).requires_grad_() for n, x in arrays.items()}
    out, last = fastiter.torch.ssm.ssd(**given, dt_softplus=True)
    for a, e in zip((out, last), ssm.ssd(**arrays, dt_softplus=True), strict=True):
        assert_near(a.detach().numpy(), e, np.float64, 300)
    same = as_selective(given, torch)
    result = fastiter.torch.ssm.selective_scan(**same, delta_softplus=True, return_last_state=True)
    expected = as_heads(size, *result)
    weights = [torch.randn_like(y) for y in (out, last)]
    found = torch.autograd.grad((out, last), list(given.values()), weights)
    for name, a, e in zip(given, found, torch.autograd.grad(expected, list(given.values()), weights), strict=True):
        assert_near(a.numpy(), e.numpy(), np.float64, 20000, name)
    small = {n: torch.from_numpy(x).requires_grad_() for n, x in ssd_inputs((1, 5, 2, 3, 1, 2)).items()}

    def call(*inputs: Any) -> Any:
        return fastiter.torch.ssm.ssd(**dict(zip(small, inputs, strict=True)), dt_softplus=True, dt_limit=(0.3, 1.5))

    assert torch.autograd.gradcheck(call, tuple(small.values()), fast_mode=True)
    for stored in (torch.bfloat16, torch.float16):
        half = {n: x.detach().to(stored) for n, x in given.items()}
        rounded = fastiter.torch.ssm.ssd(**{n: x.float() for n, x in half.items()}, dt_softplus=True)[0].to(stored)
        torch.testing.assert_close(fastiter.torch.ssm.ssd(**half, dt_softplus=True)[0], rounded, rtol=0, atol=0)


SIZE: Size = (2, 5, 4, 3, 2, 6)


def wrong_arguments(convert: Convert, cast: Callable[[Any, str], Any]) -> Iterator[Wrong]:
    given = {n: convert(x) for n, x in ssd_inputs(SIZE, np.float32).items()}
    for name, x in given.items():
        yield Wrong(f"{name} is a list", {name: ["x"]}, TYPE, name, "list")
        yield Wrong(f"{name} is int32", {name: cast(x, "int32")}, TYPE, name, "int32")
        named, got = ("dt", "float32") if name == "x" else (name, "float64")
        yield Wrong(f"{name} is float64", {name: cast(x, "float64")}, TYPE, named, got)
        yield Wrong(f"{name} has a rank too high", {name: x[None]}, VALUE, name, shape(x[None]))
        if name not in ("x", "B"):
            yield Wrong(f"{name} is short", {name: x[1:]}, VALUE, name, shape(x[1:]))
    y = given["B"][:, :, :1]
    three = convert(np.zeros((2, 5, 3, 6), np.float32))
    yield Wrong("B has other groups than C", {"B": y}, VALUE, "C", shape(given["C"]))
    yield Wrong("groups that do not divide H", {"B": three, "C": three}, VALUE, "B", shape(three))
    yield Wrong("a flag is 1", {"dt_softplus": 1}, TYPE, "dt_softplus", "int")
    limits = [((1.0), TYPE, "float"), ((1.0, "x"), TYPE, "str"), ((2.0, 1.0), VALUE, r"\(2.0, 1.0\)")]
    for limit, error, got in [*limits, ((0, 10**400), VALUE, "1000")]:
        yield Wrong(f"dt_limit is {str(limit)[:20]}", {"dt_limit": limit}, error, "dt_limit", got)
    yield from wrong_cuts(convert, "x")


def test_wrong_arguments() -> None:
    refused(ssm.ssd, ssd_inputs(SIZE, np.float32), wrong_arguments(lambda x: x, lambda x, dtype: x.astype(dtype)))
    torch = pytest.importorskip("torch")
    import fastiter.torch

    right = {n: torch.from_numpy(x) for n, x in ssd_inputs(SIZE, np.float32).items()}
    cases = wrong_arguments(torch.from_numpy, lambda x, dtype: x.to(getattr(torch, dtype)))
    refused(fastiter.torch.ssm.ssd, right, cases)
