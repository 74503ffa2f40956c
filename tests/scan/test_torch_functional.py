"""linear_scan and block_scan on tensors: the numbers of the arrays, and gradients of every input, twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
import fastiter.torch  # noqa: E402
from fastiter.reference import scan as reference  # noqa: E402
from tests.scan.calls import BROADCASTS, both_kinds, both_ways, real_dtypes, resets, scan_inputs, some_lengths  # noqa: E402
from tests.support.cases import assert_close, assert_same_bits  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402

SCANS = {"linear": fastiter.torch.linear_scan, "block": fastiter.torch.block_scan}
BACKWARD = {"linear": reference.linear_scan_backward, "block": reference.block_scan_backward}
CUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "reset": {"reset": torch.from_numpy(resets(3, 5))},
    "lengths": {"lengths": some_lengths(3, 5)},
    "packed": {"cu_seqlens": [0, 2, 2, 5]},
}
every_cut = pytest.mark.parametrize("cut", CUTS)


def tensors(kind: str, dtype: Any, cut: str = "plain", broadcast: str = "full", groups: int = 2) -> tuple[Any, ...]:
    """Return a, x, h0 that require gradients: a batch of three rows, or one row of three sequences."""
    a, x, h0 = scan_inputs(kind, 3, 5, (groups + 1,) if kind == "linear" else (groups, 2), dtype, broadcast)
    if cut == "packed":
        a, x = a[:1], x[:1]
    return tuple(torch.from_numpy(y.copy()).requires_grad_() for y in (a, x, h0))


@pairs
@every_cut
@both_ways
@both_kinds
@real_dtypes
def test_results_equal_those_of_arrays(kind: str, cut: str, reverse: bool, dtype: Any) -> None:
    given = tensors(kind, dtype, cut)
    arrays = tuple(y.detach().numpy() for y in given)
    how = {**CUTS[cut], "reverse": reverse}
    theirs = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in how.items()}
    expected = getattr(fastiter, f"{kind}_scan")(*arrays, **theirs)
    results = [SCANS[kind](*given, **how)]
    with torch.no_grad():
        results.append(SCANS[kind](*given, **how))
        out = torch.full_like(given[1], float("nan"))
        results.append(SCANS[kind](*given, **how, out=out))
        assert results[2][0] is out
    for h, last in results:
        assert_same_bits((h.detach().numpy(), last.detach().numpy()), expected)


def one_of_two(*which: int) -> Any:
    """Return one of the two dtypes of gradcheck, so that each is combined with every value of every other parameter."""
    return (np.float64, np.complex128)[sum(which) % 2]


@pairs
@every_cut
@both_ways
@pytest.mark.parametrize("broadcast", BROADCASTS)
@both_kinds
def test_gradients(kind: str, broadcast: str, reverse: bool, cut: str) -> None:
    dtype = one_of_two(list(CUTS).index(cut), list(BROADCASTS).index(broadcast), reverse)
    given = tensors(kind, dtype, cut, broadcast, groups=1)
    how = {**CUTS[cut], "reverse": reverse}
    assert torch.autograd.gradcheck(lambda *y: SCANS[kind](*y, **how), given)


@pairs
@every_cut
@both_ways
@both_kinds
def test_second_gradients(kind: str, reverse: bool, cut: str) -> None:
    how, dtype = {**CUTS[cut], "reverse": reverse}, one_of_two(list(CUTS).index(cut), reverse)
    for broadcast in ("full", "constant"):
        given = tensors(kind, dtype, cut, broadcast, groups=1)
        assert torch.autograd.gradgradcheck(lambda *y: SCANS[kind](*y, **how), given, fast_mode=broadcast == "full")


@pairs
@every_cut
@both_ways
@pytest.mark.parametrize("broadcast", BROADCASTS)
@both_kinds
def test_float32_gradients_are_those_of_the_specification(kind: str, broadcast: str, reverse: bool, cut: str) -> None:
    a, x, h0 = scan_inputs(kind, 3, 5, (37,) if kind == "linear" else (3, 5), np.float32, broadcast)
    if cut == "packed":
        a, x = a[:1], x[:1]
    given = tuple(torch.from_numpy(y.copy()).requires_grad_() for y in (a, x, h0))
    how = {**CUTS[cut], "reverse": reverse}
    h, last = SCANS[kind](*given, **how)
    dh, dlast = torch.randn(h.shape), torch.randn(last.shape)
    gradients = torch.autograd.grad([h, last], given, [dh, dlast])
    theirs = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in how.items()}
    arrays = (a, h.detach().numpy(), h0, dh.numpy(), dlast.numpy())
    expected = BACKWARD[kind](*[y.astype(np.float64) for y in arrays], **theirs)
    for mine, exact in zip(gradients, expected, strict=True):
        assert_close(mine.numpy(), exact.astype(np.float32), 15, 5)


@pytest.mark.parametrize("needed", range(1, 8))
@both_kinds
def test_gradients_of_some_inputs(kind: str, needed: int) -> None:
    given = tensors(kind, np.float64)
    expected = torch.autograd.grad(SCANS[kind](*given)[0].sum(), given)
    some = [y.detach().requires_grad_(bool(needed >> i & 1)) for i, y in enumerate(given)]
    wanted = [(y, e) for y, e in zip(some, expected, strict=True) if y.requires_grad]
    for (_, e), g in zip(wanted, torch.autograd.grad(SCANS[kind](*some)[0].sum(), [y for y, _ in wanted]), strict=True):
        assert torch.equal(g, e)


@both_ways
def test_bfloat16_is_stored_and_float32_carried(reverse: bool) -> None:
    a, x, h0 = (torch.from_numpy(y) for y in scan_inputs("linear", 3, 40, (21,), np.float32))
    a, x = (0.9 * torch.tanh(a)).bfloat16(), x.bfloat16()
    h, last = fastiter.torch.linear_scan(a, x, h0, reverse=reverse)
    exact, exact_last = fastiter.torch.linear_scan(a.float(), x.float(), h0, reverse=reverse)
    assert h.dtype == torch.bfloat16 and last.dtype == torch.float32
    assert torch.equal(h, exact.bfloat16()) and torch.equal(last, exact_last)
    first, state = fastiter.torch.linear_scan(
        a[:, 20:] if reverse else a[:, :20], *((x[:, 20:], h0) if reverse else (x[:, :20], h0)), reverse=reverse
    )
    assert torch.equal(first, h[:, 20:] if reverse else h[:, :20])
    rest = slice(None, 20) if reverse else slice(20, None)
    assert torch.equal(fastiter.torch.linear_scan(a[:, rest], x[:, rest], state, reverse=reverse)[1], last)


@both_kinds
def test_views_of_every_kind(kind: str) -> None:
    given = tensors(kind, np.complex128)
    views = {
        "conjugate": lambda y: y.conj().resolve_conj().conj(),
        "expanded": lambda y: y[:1].expand(y.shape),
        "transposed": lambda y: y.transpose(-1, -2).contiguous().transpose(-1, -2),
        "stepped": lambda y: torch.repeat_interleave(y, 2, -1)[..., ::2],
    }
    for view in views.values():
        for i in range(3):
            viewed = view(given[i].detach())
            results = []
            for y in (viewed, viewed.resolve_conj().contiguous().clone()):
                inputs = [*given[:i], y.detach().requires_grad_(), *given[i + 1 :]]
                h, last = SCANS[kind](*inputs)
                results.append([h, last, *torch.autograd.grad([h, last], inputs, [torch.ones_like(h), last.detach()])])
            assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))


def test_a_cotangent_with_strides_of_zero() -> None:
    given = tensors("linear", np.float64)
    torch.autograd.grad(SCANS["linear"](*given)[0].sum(), given)
    plain = torch.autograd.grad(SCANS["linear"](*given)[0], given, torch.ones(3, 5, 3, dtype=torch.float64))
    summed = torch.autograd.grad(SCANS["linear"](*given)[0].sum(), given)
    assert all(torch.equal(p, q) for p, q in zip(plain, summed, strict=True))


# ---- torch's machinery ----------------------------------------------------------------------------------------------


@both_kinds
def test_opcheck_of_packed_rows(kind: str) -> None:
    a, x, h0 = (y.detach() for y in tensors(kind, np.float32, "packed"))
    given = (False, None, None, torch.tensor(CUTS["packed"]["cu_seqlens"]))
    ops = torch.ops.fastiter
    forward, backward = (getattr(ops, f"_{kind}_scan_{name}") for name in ("fwd", "bwd"))
    torch.library.opcheck(forward, (a, x, h0, *given))
    h, last = forward(a, x, h0, *given)
    torch.library.opcheck(backward, (a, h, h0, torch.ones_like(h), torch.ones_like(last), *given, True, True, True))


@pytest.mark.filterwarnings("ignore")
@both_kinds
def test_compile_and_export(kind: str) -> None:
    given = tensors(kind, np.float32)

    def f(a: Any, x: Any, h0: Any) -> Any:
        h, last = SCANS[kind](a, x, h0)
        return h * 2, last

    expected = torch.autograd.grad([y.sum() for y in f(*given)], given)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad([y.sum() for y in compiled(*given)], given)
    assert all(torch.allclose(p, q) for p, q in zip(actual, expected, strict=True))

    class Module(torch.nn.Module):
        def forward(self, a: Any, x: Any, h0: Any) -> Any:
            return f(a, x, h0)

    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    shapes = ({0: batch, 1: time}, {0: batch, 1: time}, {0: batch})
    plain = tuple(y.detach() for y in given)
    program = torch.export.export(Module(), plain, dynamic_shapes=shapes).module()
    longer = [torch.cat([y, y], 0) for y in plain]
    assert all(torch.equal(p, q) for p, q in zip(program(*longer), f(*longer), strict=True))
