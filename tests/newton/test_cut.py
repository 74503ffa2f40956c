"""The diagonal cells with reset and cu_seqlens, on arrays and tensors, by both methods, with gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.reference import newton as reference
from tests.support.cases import assert_same_bits, nans
from tests.support.pairs import pairs

B, T, D = 3, 40, 5
CELLS = {"paragru": (3, 1), "paralstm": (3, 2), "paraslstm": (4, 4)}


def inputs(name: str, rows: int, batch: int = B) -> tuple[list[Any], tuple[Any, ...]]:
    rng, (gates, states) = np.random.default_rng(0), CELLS[name]
    given = [rng.standard_normal((batch, T, gates, D)), rng.standard_normal((gates, D))]
    given += [rng.standard_normal((2, D))] if name == "paralstm" else []
    state = rng.standard_normal((states, rows, D))
    return given, tuple(abs(x) + 1 if k == 2 else x for k, x in enumerate(state))


RESET = np.random.default_rng(1).random((B, T)) < 0.2
RESET[0, 0] = RESET[1, T - 1] = True
CUTS: dict[str, Any] = {
    "reset": {"reset": RESET},
    "reset of all rows": {"reset": RESET[0]},
    "reset and lengths": {"reset": RESET, "lengths": [T, 0, 17]},
    "packed": {"cu_seqlens": [0, 9, 9, T]},
    "packed and reset": {"cu_seqlens": [0, 9, 9, T], "reset": RESET[:1]},
}


def case(name: str, cut: str) -> tuple[list[Any], tuple[Any, ...]]:
    return inputs(name, 3, 1 if "packed" in cut else B)


def leaves(x: Any) -> list[Any]:
    return [leaf for part in x for leaf in leaves(part)] if isinstance(x, tuple) else [x]


@pairs
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", CELLS)
def test_equals_the_specification(name: str, cut: str, reverse: bool) -> None:
    (given, state), how = case(name, cut), {**CUTS[cut], "reverse": reverse}
    function = getattr(fastiter, name)
    for more in ({}, {"method": "newton", "return_info": True}):
        expected = function(*given, state, **how, **more, backend="reference")
        out = nans(expected[0].shape, np.float64)
        found = function(*given, state, **how, **more, out=out)
        assert found[0] is out
        for x, y in zip(leaves(tuple(found[:2])), leaves(tuple(expected[:2])), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)
        if more:
            assert found.info.steps.shape == expected.info.steps.shape == (3,)


@pytest.mark.parametrize("name", CELLS)
def test_parts_alone_have_the_same_bits(name: str) -> None:
    given, state = inputs(name, 3, 1)
    h, last = getattr(fastiter, name)(*given, state, cu_seqlens=[0, 9, 9, T])
    alone = getattr(fastiter, name)(given[0][:, 9:], *given[1:], tuple(x[2:] for x in state))
    assert_same_bits(h[:, 9:], alone[0])
    assert_same_bits(np.stack(last)[:, 2:], np.stack(alone[1]))
    given[0][:, 8] = np.nan  # dropped by a reset
    h, _ = getattr(fastiter, name)(*given, None, reset=np.arange(T) == 9)
    assert_same_bits(h[:, 9:], getattr(fastiter, name)(given[0][:, 9:], *given[1:])[0])


@pairs
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", CELLS)
def test_tensors_and_gradients(name: str, cut: str, reverse: bool) -> None:
    torch = pytest.importorskip("torch")
    (given, state), how = case(name, cut), {**CUTS[cut], "reverse": reverse}
    tensors = [torch.from_numpy(x).requires_grad_() for x in (*given, *state)]
    count, p = len(given), given[2] if name == "paralstm" else np.empty((0, D))
    options = {n: torch.from_numpy(x) if n == "reset" else x for n, x in how.items()}
    function = getattr(fastiter.torch, name)
    h, last = function(*tensors[:count], tuple(tensors[count:]), **options)
    expected = getattr(fastiter, name)(*given, state, **how)
    for x, y in zip((h, *last), leaves(tuple(expected)), strict=True):
        assert_same_bits(x.detach().numpy(), y)
    rng = np.random.default_rng(2)
    dh, *dlast = (rng.standard_normal(x.shape) for x in (h, *last))
    found = torch.autograd.grad((h, *last), tensors, [torch.from_numpy(x) for x in (dh, *dlast)])
    dwx, da, dp, dstate = reference.backward(name, *given[:2], p, state, dh, dlast, **how)
    wanted = [dwx, da, *([dp] if name == "paralstm" else []), *dstate]
    for x, y in zip(found, wanted, strict=True):
        np.testing.assert_allclose(x.numpy(), y, rtol=1e-8, atol=1e-8)


def test_refusals() -> None:
    given, _ = inputs("paragru", 3)
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(x) for x in given]
    for call, made, array in ((fastiter.paragru, given, np.zeros), (fastiter.torch.paragru, tensors, torch.zeros)):
        for how, error, message in (
            ({"cu_seqlens": [0, T]}, ValueError, "wx must have B = 1 if cu_seqlens is given, got B = 3"),
            ({"reset": array((T, B)) > 0}, ValueError, r"reset must have shape \(B, T\) = \(3, 40\) or \(T,\)"),
            ({"reset": array((B, T))}, TypeError, "reset must be .* bool"),
        ):
            with pytest.raises(error, match=f"^paragru: {message}"):
                call(*made, **how)
        with pytest.raises(ValueError, match=r"^paragru: cu_seqlens must rise from 0 to T = 40, got 0 to 3$"):
            call(made[0][:1], made[1], cu_seqlens=[0, 3])
        with pytest.raises(ValueError, match=r"^paragru: state must have shape \(S, D\) = \(2, 5\) to go with wx"):
            call(made[0][:1], made[1], array((1, D)) + made[1][:1], cu_seqlens=[0, 3, T])
