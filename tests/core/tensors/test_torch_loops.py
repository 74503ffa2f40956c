"""Solvers of tensors whose steps depend on values, under torch.compile and torch.export, whose graphs have no loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter.torch as ours  # noqa: E402
from fastiter.torch import fixedpoint  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning",  # torch's, in tracing
    "ignore:.torch.jit.script. is deprecated",  # torch's, where forward mode begins
)


def numbers(*shape: int) -> Any:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def dominant() -> Any:
    A = numbers(5, 5)
    return A + A.mT + 10 * torch.eye(5, dtype=torch.float64)


CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "fixed_point": (lambda b: fixedpoint.fixed_point(torch.cos, b).value, (numbers(2, 5),)),
    "refine": (lambda A, b: fixedpoint.refine(A, torch.linalg.inv(A).float(), b).value, (dominant(), numbers(5))),
    "sinkhorn": (lambda C: fixedpoint.sinkhorn(C, epsilon=0.5).plan, (numbers(4, 5),)),
    "solve_recurrence": (
        lambda x: ours.solve_recurrence(lambda h, x, p: torch.tanh(h * p + x), x, numbers(5)).value,
        (numbers(2, 9, 5),),
    ),
    "LeastSquares": (lambda A, b: ours.bcd.bcd(ours.bcd.LeastSquares(A, b, l1=0.1)).value, (numbers(9, 5), numbers(9))),
    "bcd": (lambda b: ours.bcd.bcd(lambda x: (x - b).square().sum(), torch.zeros_like(b)).value, (numbers(5),)),
    "nnls": (lambda A, b: ours.bcd.nnls(A, b).value, (numbers(9, 5), numbers(9))),
    "lasso_path": (lambda A, b: ours.bcd.lasso_path(A, b).value, (numbers(9, 5), numbers(9))),
    "sketch_solve": (lambda A, b: ours.bcd.sketch_solve(A, b, rng=0).value, (dominant(), numbers(5))),
    "sketched_newton": (
        lambda x: ours.bcd.sketched_newton(lambda x: x @ x, lambda x: (x.sum() - 1).reshape(1), x).value,
        (numbers(5),),
    ),
    "solve": (lambda P, R: ours.mdp.solve(P.softmax(-1), R, 0.9).value, (numbers(4, 2, 4), numbers(4, 2))),
    "flexible_cg": (lambda A, b: ours.relax.flexible_cg(A, b).value, (dominant(), numbers(5))),
}


class Module(torch.nn.Module):  # type: ignore[misc,name-defined]
    """A function as torch.export takes it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


@pytest.mark.parametrize("name", CALLS)
def test_between_the_graphs_of_torch_compile(name: str) -> None:
    call, args = CALLS[name]
    torch._dynamo.reset()
    compiled = torch.compile(lambda *args: 2 * call(*args), backend="aot_eager")
    torch.testing.assert_close(compiled(*args), 2 * call(*args))


@pytest.mark.parametrize("name", CALLS)
def test_torch_export_is_refused_in_one_sentence(name: str) -> None:
    call, args = CALLS[name]
    with pytest.raises(RuntimeError, match=rf"^{name}: torch\.export is not supported, because the number of "):
        torch.export.export(Module(call), args)


FORWARD: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    **{name: CALLS[name] for name in ("refine", "LeastSquares", "nnls", "lasso_path", "sketch_solve", "flexible_cg")},
    "sketched_newton": (
        lambda total: (
            ours.bcd.sketched_newton(
                lambda x, total: x @ x, lambda x, total: (x.sum() - total).reshape(1), numbers(5), total
            ).value
        ),
        (torch.ones((), dtype=torch.float64),),
    ),
    "fixed_point": (
        lambda x: fixedpoint.fixed_point(lambda z, x: torch.cos(z) * x, torch.zeros_like(x), x, grad="one-step").value,
        (numbers(2, 5),),
    ),
    "jacobian_penalty": (lambda x: fixedpoint.jacobian_penalty(torch.tanh, x), (numbers(2, 5),)),
}


@pytest.mark.parametrize("name", FORWARD)
def test_tangents_of_forward_mode_are_not_lost_in_silence(name: str) -> None:
    call, args = FORWARD[name]
    with torch.autograd.forward_ad.dual_level():
        call(*args)
        for at in range(len(args)):
            dual = torch.autograd.forward_ad.make_dual(args[at], torch.ones_like(args[at]))
            with pytest.raises(NotImplementedError, match=rf"^{name}: forward-mode derivatives are not supported"):
                call(*args[:at], dual, *args[at + 1 :])


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_tangents_of_what_a_function_depends_on_are_not_lost_either() -> None:
    A, b = dominant(), numbers(5)
    sparse = (A.to_sparse_csr(), A.to_sparse())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(A, torch.ones_like(A))
        with pytest.raises(NotImplementedError, match=r"^flexible_cg: forward-mode derivatives are not supported"):
            ours.relax.flexible_cg(lambda x: dual @ x, b)
        assert all(ours.relax.flexible_cg(each, b).converged for each in sparse)
