"""The option `reverse` of the sequence functions on tensors: bits, gradients, tracing and errors."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from fastiter import ssm  # noqa: E402
from tests.ssm.test_reverse_and_out import ROWS, Reversible, calls, parts, with_resets  # noqa: E402
from tests.support.cases import assert_close, assert_same_bits  # noqa: E402

every_rows = pytest.mark.parametrize("rows", ROWS)


def as_tensors(x: Any) -> Any:
    """Return tensors that require gradients, or tuples of them."""
    return tuple(map(as_tensors, x)) if isinstance(x, tuple) else torch.from_numpy(x.copy()).requires_grad_()


def run(call: Reversible, given: dict[str, Any], cut: dict[str, Any]) -> tuple[Any, list[Any]]:
    how = {n: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for n, x in cut.items()}
    out, last = getattr(fastiter.torch.ssm, call.name)(**given, **call.options, **how)
    return out, parts(last)


def leaves(given: dict[str, Any]) -> list[Any]:
    return [y for x in given.values() for y in parts(x)]


def order(call: Reversible, cut: dict[str, Any]) -> Any:
    """Return for each row and step the step that takes its place in reversed sequences."""
    batch, time = call.steps(call.given[call.like]).shape[:2]
    steps = np.tile(np.arange(time), (batch, 1))
    bounds = cut.get("cu_seqlens", [0, time])
    ends = [(row, slice(0, n)) for row, n in enumerate(cut["lengths"])] if "lengths" in cut else []
    ends = ends or [(row, slice(*pair)) for row in range(batch) for pair in itertools.pairwise(bounds)]
    for row, part in ends:
        steps[row, part] = steps[row, part][::-1]
    return torch.from_numpy(steps)


def turned(call: Reversible, x: Any, steps: Any) -> Any:
    """Return a differentiable copy with the steps of each row in this order; two numbers a step are pairs."""
    numbers = x.shape[call.axis] // steps.shape[1]
    by_step = x.movedim(call.axis, -1).unflatten(-1, (-1, numbers)).movedim(-2, 1)
    rows = torch.arange(len(steps))[:, None]
    return by_step[rows, steps].movedim(1, -2).flatten(-2).movedim(-1, call.axis)


@every_rows
def test_bits_and_gradients_of_reversed_arguments(rows: str) -> None:
    for call in calls(rows):
        cut = with_resets(call, rows)
        given = {name: as_tensors(x) for name, x in call.given.items()}
        out, last = run(call, given, {**cut, "reverse": True})
        cotangents = [torch.randn_like(x) for x in (out, *last)]
        found = torch.autograd.grad([out, *last], leaves(given), cotangents)
        steps = order(call, cut)
        by_hand = {n: turned(call, x, steps) if n in call.timed else x for n, x in given.items()}
        if "reset" in cut:
            cut["reset"] = cut["reset"][np.arange(len(steps))[:, None], steps.numpy()]
        ahead, states = run(call, by_hand, cut)
        expected = [turned(call, ahead, steps), *states]
        gradients = torch.autograd.grad(expected, leaves(given), cotangents)
        names = ["result"] * len(expected) + [name for name, x in given.items() for _ in parts(x)]
        for name, own, x in zip(names, (out, *last, *found), (*expected, *gradients), strict=True):
            own, x = own.detach().numpy(), x.detach().numpy()
            if name in ("result", "state", *call.timed):
                assert_same_bits(own, x, f"{name} of {call.name}")
            else:  # a sum over the steps, whose order may depend on the layout
                assert_close(own, x, length=steps.numel(), name=f"{name} of {call.name}")


def test_a_convolution_with_labels_in_reverse() -> None:
    call = list(calls("whole rows"))[-1]
    labels = np.sort(np.random.default_rng(0).integers(0, 4, (3, 37)), 1)
    x, weight = (torch.from_numpy(call.given[name]) for name in ("x", "weight"))
    out = fastiter.torch.ssm.causal_conv1d(x, weight, seq_idx=torch.from_numpy(labels), reverse=True)
    expected = ssm.causal_conv1d(x.numpy(), weight.numpy(), seq_idx=labels, reverse=True)
    assert_same_bits(out.numpy(), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["linear_attention", "selective_scan"])
def test_traced(name: str) -> None:
    call = next(call for call in calls("lengths") if call.name == name)
    given = {n: as_tensors(x) for n, x in call.given.items()}
    cut = {**ROWS["lengths"], "reverse": True}
    traced = torch.compile(lambda given: run(call, given, cut), backend="aot_eager", fullgraph=True)
    (out, last), (expected, states) = traced(given), run(call, given, cut)
    for x, y in zip((out, *last), (expected, *states), strict=True):
        assert_same_bits(x.detach().numpy(), y.detach().numpy(), name)


def test_directions_are_bools() -> None:
    for call in calls("whole rows"):
        given = {n: as_tensors(x) for n, x in call.given.items()}
        with pytest.raises(TypeError, match=f"^{call.name}: reverse must be a bool, got int"):
            run(call, given, {"reverse": 1})
