"""ConvergentGraphSolver: its linear systems, gradients and invariances, on random and degenerate graphs."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from fastiter.torch.experimental import ConvergentGraphSolver  # noqa: E402

F64 = torch.float64
HOW: dict[str, Any] = {"num_heads": 3, "hidden": 8, "dtype": F64, "rtol": 1e-13}


def randn(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def graph(nodes: int, edges: int, seed: int = 0) -> Any:
    """Return random edges, among them parallel ones and loops."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(nodes, (2, edges), generator=generator)


def solver(**how: Any) -> Any:
    torch.manual_seed(0)
    return ConvergentGraphSolver(2, 1, 2, **{**HOW, **how})


class Systems(ConvergentGraphSolver):
    """Keeps the weights of the edges, the right-hand sides and the solution."""

    def _normalized(self, logits: Any, source: Any, degree: Any) -> Any:
        self.weight = super()._normalized(logits, source, degree)
        return self.weight


@pytest.mark.parametrize("normalization", ["degree", "attention"])
@pytest.mark.parametrize(("nodes", "edges"), [(6, 20), (5, 0), (1, 0), (1, 3), (40, 90)])
def test_the_solution_is_that_of_dense_matrices(normalization: Any, nodes: int, edges: int) -> None:
    torch.manual_seed(0)
    module = Systems(2, 1, 2, normalization=normalization, gamma=0.8, **HOW)
    kept: dict[str, Any] = {}
    module.node_out.register_forward_hook(lambda _, given, made: kept.update(b=made))
    module.decoder.register_forward_pre_hook(lambda _, given: kept.update(z=given[0]))
    pairs = graph(nodes, edges)
    module(randn(nodes, 2), pairs, randn(edges, 1))
    for head in range(3):
        A = torch.zeros(nodes, nodes, dtype=F64)
        A.index_put_((pairs[0], pairs[1]), module.weight[:, head].detach(), accumulate=True)
        assert bool((A >= 0).all()) and float(A.sum(1).max()) <= 1 + 1e-12
        exact = torch.linalg.solve(torch.eye(nodes, dtype=F64) - 0.8 * A, kept["b"][:, head].detach())
        torch.testing.assert_close(kept["z"][:, head].detach(), exact, rtol=1e-10, atol=1e-11)
    assert module.solution is not None and module.solution.converged


@pytest.mark.parametrize("normalization", ["degree", "attention"])
def test_gradients(normalization: Any) -> None:
    module, pairs = solver(normalization=normalization, num_heads=2, hidden=4), graph(4, 9)
    x, e = randn(4, 2).requires_grad_(), randn(9, 1, seed=1).requires_grad_()
    values = [p.detach().clone().requires_grad_() for p in module.parameters()]
    names = [name for name, _ in module.named_parameters()]

    def call(x: Any, e: Any, *given: Any) -> Any:
        return torch.func.functional_call(module, dict(zip(names, given, strict=True)), (x, pairs, e))

    assert torch.autograd.gradcheck(call, (x, e, *values), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, (x, e, *values), fast_mode=True)


def test_nodes_may_be_renumbered_and_graphs_joined() -> None:
    module, pairs = solver(), graph(6, 15)
    x, e = randn(6, 2), randn(15, 1)
    expected = module(x, pairs, e)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    place = torch.argsort(order)
    torch.testing.assert_close(module(x[order], place[pairs], e), expected[order])
    shuffled = torch.randperm(15, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(module(x, pairs[:, shuffled], e[shuffled]), expected)
    both = module(torch.cat([x, 2 * x]), torch.cat([pairs, pairs + 6], 1), torch.cat([e, e]))
    torch.testing.assert_close(both, torch.cat([expected, module(2 * x, pairs, e)]))


def test_graphs_without_features() -> None:
    torch.manual_seed(0)
    module = ConvergentGraphSolver(0, 0, 1, **HOW)
    pairs = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    y = module(4, pairs)
    torch.testing.assert_close(y, y[:1].expand(4, 1))  # all nodes of a cycle are alike
    assert module(0, torch.zeros(2, 0, dtype=torch.int64)).shape == (0, 1)


def test_failures_to_converge_are_reported() -> None:
    module, x, e, pairs = solver(max_steps=1), randn(6, 2), randn(15, 1), graph(6, 15)
    with pytest.warns(fastiter.ConvergenceWarning, match=r"^gauss_seidel: "):
        y = module(x, pairs, e)
    with pytest.raises(fastiter.ConvergenceError):
        y.sum().backward()
    with pytest.raises(fastiter.ConvergenceError):
        solver(max_steps=1, throw=True)(x, pairs, e)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"outputs": 0}, ValueError, "outputs must be at least 1, got 0"),
        ({"gamma": 1.0}, ValueError, "gamma must be below 1, as the map has to contract, got 1.0"),
        ({"layers": 0}, ValueError, "layers must be at least 1, got 0"),
        ({"normalization": "none"}, ValueError, "normalization must be one of 'degree', 'attention', got 'none'"),
        ({"throw": 1}, TypeError, "throw must be a bool, got int"),
    ],
)
def test_errors(arguments: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^ConvergentGraphSolver: {message}"):
        ConvergentGraphSolver(**{"node_features": 2, "edge_features": 1, "outputs": 1, **arguments})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": 3}, TypeError, "x must be a torch.Tensor of dtype torch.float64, got int"),
        ({"x": torch.zeros(4, 3, dtype=F64)}, ValueError, r"x must have shape \(N, 2\), got \(4, 3\)"),
        (
            {"edges": torch.zeros(2, 5)},
            TypeError,
            "edges must be a torch.Tensor of dtype torch.int64, got",
        ),
        ({"edges": torch.zeros(3, 5, dtype=torch.int64)}, ValueError, r"edges must have shape \(2, E\), got \(3, 5\)"),
        ({"edges": torch.full((2, 5), 4)}, ValueError, "edges must be between nodes from 0 to 3, got 4"),
        ({"edges": torch.full((2, 5), -1)}, ValueError, "edges must be between nodes from 0 to 3, got -1"),
        ({"edge_attr": None}, TypeError, "edge_attr must be a torch.Tensor of dtype torch.float64, got NoneType"),
        ({"edge_attr": torch.zeros(4, 1, dtype=F64)}, ValueError, r"edge_attr must have shape \(5, 1\), got \(4, 1\)"),
    ],
)
def test_errors_of_inputs(change: dict[str, Any], error: Any, message: str) -> None:
    given = {"x": randn(4, 2), "edges": torch.zeros(2, 5, dtype=torch.int64), "edge_attr": randn(5, 1), **change}
    with pytest.raises(error, match=f"^ConvergentGraphSolver: {message}"):
        solver()(**given)
