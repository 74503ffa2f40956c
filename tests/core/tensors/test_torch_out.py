"""The recurrences on tensors write their results to ``out``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter.torch as ft  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")

B, T, N, D = 3, 7, 2, 5


def randn(*shape: int) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def delta(**how: Any) -> Any:
    return ft.delta_scan(randn(B, T, N, D), randn(B, T, N, D) / 3, randn(B, T, N, D), randn(B, T, N).sigmoid(), **how)


def cell(name: str, gates: int) -> Callable[..., Any]:
    return lambda **how: getattr(ft, name)(randn(B, T, gates, N, D), randn(gates, N, D, D), **how)


CALLS: dict[str, tuple[tuple[int, ...], Callable[..., Any]]] = {
    "lstm": ((B, T, N, D), cell("lstm", 4)),
    "gru": ((B, T, N, D), cell("gru", 3)),
    "elman": ((B, T, N, D), cell("elman", 1)),
    "slstm": ((B, T, N, D), cell("slstm", 4)),
    "linear_scan": ((B, T, D), lambda **how: ft.linear_scan(randn(D).sigmoid(), randn(B, T, D), **how)),
    "block_scan": ((B, T, N, D), lambda **how: ft.block_scan(randn(N, D, D) / 3, randn(B, T, N, D), **how)),
    "delta_scan": ((B, T, N, D), delta),
    "paragru": ((B, T, D), lambda **how: ft.paragru(randn(B, T, 3, D), randn(3, D), **how)),
    "paralstm": ((B, T, D), lambda **how: ft.paralstm(randn(B, T, 3, D), randn(3, D), randn(2, D), **how)),
    "paraslstm": ((B, T, D), lambda **how: ft.paraslstm(randn(B, T, 4, D), randn(4, D), **how)),
}
#: Memory of the size of the result; the last layout has no contiguous units, so the result is copied.
LAYOUTS: dict[str, Callable[[tuple[int, ...]], Any]] = {
    "dense": lambda shape: torch.full(shape, torch.nan),
    "time-major": lambda shape: torch.full((T, B, *shape[2:]), torch.nan).transpose(0, 1),
    "strided": lambda shape: torch.full((*shape, 2), torch.nan)[..., 0],
}
OPTIONS: list[dict[str, Any]] = [{}, {"reverse": True, "lengths": [T, 0, 3]}]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CALLS)
def test_the_results_are_the_same(name: str, layout: str) -> None:
    shape, call = CALLS[name]
    has_states = name in ("lstm", "gru", "elman", "slstm")
    more: list[dict[str, Any]] = [{"return_all_states": True}] if has_states else []
    more += [{"method": "newton", "return_info": True}] if name.startswith("para") else []
    for how in (*OPTIONS, *more):
        out = LAYOUTS[layout](shape)
        version, expected, found = out._version, call(**how), call(**how, out=out)
        assert found[0] is out and out._version > version and type(found) is type(expected)
        flat, others = (torch.utils._pytree.tree_leaves(tuple(result[:2])) for result in (found, expected))
        assert all(x.equal(y) for x, y in zip(flat, others, strict=True))
        if "return_all_states" in how:
            assert found.states[0] is out
            assert all(x.equal(y) for x, y in zip(found.states, expected.states, strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_wrong_outputs_are_refused(name: str) -> None:
    shape, call = CALLS[name]
    wrong = [
        (torch.empty(shape[1:]), ValueError, r"out must have shape \(3, 7, "),
        (torch.empty(shape, dtype=torch.float64), TypeError, "out must have dtype torch.float32 like .*"),
        (torch.empty(shape[-1]).expand(shape), ValueError, "out must have one place for each element"),
        ("x", TypeError, "out must be a torch.Tensor, got str"),
        (
            torch.empty(shape, requires_grad=True),
            RuntimeError,
            "out must be None if an argument requires a gradient",
        ),
    ]
    for out, error, message in wrong:
        with pytest.raises(error, match=f"^{name}: {message}"):
            call(out=out)
    with torch.no_grad():
        call(out=torch.empty(shape, requires_grad=True))


def test_the_memory_of_an_input_is_refused() -> None:
    wx, r = randn(B, T, 4, N, D), randn(4, N, D, D)
    with pytest.raises(ValueError, match=r"^lstm: out must not share memory with the inputs, got the memory of wx$"):
        ft.lstm(wx, r, out=wx[:, :, 1])
    weight = r.clone().requires_grad_()
    with pytest.raises(RuntimeError, match=r"^lstm: out must be None if an argument requires a gradient"):
        ft.lstm(wx, weight, out=torch.empty(B, T, N, D))


def test_in_a_graph() -> None:
    wx, r, a = randn(B, T, 3, N, D), randn(3, N, D, D), randn(3, D)

    def both(out: Any, other: Any) -> Any:
        return ft.gru(wx, r, out=out).state[0], ft.paragru(wx[:, :, :, 0], a, out=other).state[0]

    outs, expected = ([torch.empty(shape) for shape in ((B, T, N, D), (B, T, D))] for _ in range(2))
    found = torch.compile(both, fullgraph=True, backend="aot_eager")(*outs)
    for x, y in zip((*outs, *found), (*expected, *both(*expected)), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)
