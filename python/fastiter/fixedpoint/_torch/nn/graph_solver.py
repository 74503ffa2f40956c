"""ConvergentGraphSolver: predictions on graphs from the fixed points of learned contracting linear maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...._check import check_choice, check_flag, count, positive, type_name
from ....relax._solvers.result import LinearSolution
from .graph import Pattern
from .precision import without_autocast

_NAME = "ConvergentGraphSolver"
NORMALIZATIONS = ("degree", "attention")


class ConvergentGraphSolver(nn.Module):
    """z_h = gamma A_h z_h + b_h for each head h, with A_h and b_h from a graph network, decoded from all heads.

    Messages pass between neighbours a few times and give each edge a weight and each node a number, per head. Every row
    of A_h sums to at most 1, so that with gamma < 1 the map contracts in the maximum norm and has one fixed point,
    which carries information across the whole graph: the network applies to larger graphs than it was trained on. The
    fixed points are found by Gauss-Seidel sweeps on the sparse matrix of all heads, and the gradient by sweeps on its
    transpose; it has derivatives of any order. Under autocast, it computes in the dtype of the parameters.

    Parameters
    ----------
    node_features : int
        Features of each node, 0 for none.
    edge_features : int
        Features of each edge, 0 for none.
    outputs : int
        Predictions for each node.
    num_heads : int
        The number of maps, H.
    hidden : int
        The width of messages and of hidden layers.
    layers : int
        The number of rounds of message passing, at least 1.
    gamma : float
        The contraction, in (0, 1).
    normalization : {"degree", "attention"}
        Whether A_uv is clip(logit, 0, 1) / outdegree(u), or the softmax of the logits over the edges of u.
    rtol : float
        The solver stops when ``||b + gamma A z - z|| <= rtol ||b||``, for all heads and nodes together.
    max_steps : int
        The maximum number of sweeps.
    throw : bool
        Whether to raise :class:`fastiter.ConvergenceError` instead of warning if the solver does not converge. The
        backward pass always raises it.
    device, dtype : object, optional
        The device and dtype of the parameters.

    Attributes
    ----------
    solution : LinearSolution or None
        The last call's solution without its gradient, of all heads together.

    Raises
    ------
    TypeError, ValueError
        For an option of a wrong type or value.

    See Also
    --------
    fastiter.torch.relax.gauss_seidel : The solver.
    fastiter.torch.nn.MonotoneDEQ : A layer with a non-linear map.

    References
    ----------
    J. Park, J. Choo, J. Park, "Convergent graph solvers" (ICLR 2022).

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.experimental import ConvergentGraphSolver
    >>> solver = ConvergentGraphSolver(3, 1, 2, num_heads=4, hidden=16)
    >>> edges = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])  # node 0 reads nodes 1 and 2
    >>> solver(torch.randn(4, 3), edges, torch.randn(5, 1)).shape
    torch.Size([4, 2])
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        node_features: int,
        edge_features: int,
        outputs: int,
        *,
        num_heads: int = 16,
        hidden: int = 32,
        layers: int = 2,
        gamma: float = 0.5,
        normalization: Literal["degree", "attention"] = "degree",
        rtol: float = 1e-6,
        max_steps: int = 1000,
        throw: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.node_features = count(_NAME, "node_features", node_features)
        self.edge_features = count(_NAME, "edge_features", edge_features)
        self.outputs, self.num_heads = count(_NAME, "outputs", outputs, 1), count(_NAME, "num_heads", num_heads, 1)
        self.hidden, layers = count(_NAME, "hidden", hidden, 1), count(_NAME, "layers", layers, 1)
        self.gamma = positive(_NAME, "gamma", gamma, zero=False)
        if self.gamma >= 1:
            raise ValueError(f"{_NAME}: gamma must be below 1, as the map has to contract, got {gamma}")
        check_choice(_NAME, "normalization", normalization, NORMALIZATIONS)
        self.normalization = normalization
        self.solver = {"rtol": positive(_NAME, "rtol", rtol), "max_steps": count(_NAME, "max_steps", max_steps, 1)}
        check_flag(_NAME, "throw", throw)
        self.throw = throw
        self.solution: LinearSolution[Tensor] | None = None
        options = {"device": device, "dtype": dtype}
        self.node_in = nn.Linear(self.node_features, hidden, **options) if self.node_features else None
        if self.node_in is None:
            self.start = nn.Parameter(torch.randn(hidden, **options))
        wide = 2 * hidden + self.edge_features
        self.message = nn.ModuleList([_two_layers(wide, hidden, hidden, options) for _ in range(layers)])
        self.update = nn.ModuleList([_two_layers(2 * hidden, hidden, hidden, options) for _ in range(layers)])
        self.edge_out = _two_layers(wide, hidden, num_heads, options)
        self.node_out = _two_layers(hidden, hidden, num_heads, options)
        self.decoder = _two_layers(num_heads, hidden, outputs, options)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return (
            f"{self.node_features}, {self.edge_features}, {self.outputs}, num_heads={self.num_heads}, "
            f"hidden={self.hidden}, gamma={self.gamma}, normalization={self.normalization!r}"
        )

    @without_autocast
    def forward(self, x: Tensor | None, edges: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Return the predictions for all nodes.

        Parameters
        ----------
        x : Tensor (N, node_features), or int without node features
            The features of the nodes, or their number.
        edges : Tensor (2, E) int64
            Pairs (u, v): node u reads node v. Pass several graphs as one, without edges between them.
        edge_attr : Tensor (E, edge_features), optional
            The features of the edges; required if ``edge_features`` is not 0.

        Returns
        -------
        Tensor (N, outputs)
            The predictions.

        Raises
        ------
        TypeError, ValueError
            For a wrong type or dtype; for a wrong shape or value.
        ConvergenceError
            In the backward pass, or if ``throw`` is True, if the solver does not converge.
        """
        nodes = self._check(x, edges, edge_attr)
        h = self.start.expand(nodes, -1) if self.node_in is None else self.node_in(x)
        source, target = edges
        degree = torch.bincount(source, minlength=nodes).clamp_min(1).to(h.dtype).unsqueeze(1)
        for message, update in zip(self.message, self.update, strict=True):
            sent = message(_joined(h, source, target, edge_attr))
            mean = torch.zeros_like(h).index_add(0, source, sent) / degree
            h = h + update(torch.cat([h, mean], 1))
        logits = self.edge_out(_joined(h, source, target, edge_attr))
        weight = self._normalized(logits, source, degree)
        pattern = Pattern.of(edges, nodes, self.num_heads)
        z, result = pattern.solve(weight, self.node_out(h), self.gamma, throw=self.throw, **self.solver)
        self.solution = replace(result, value=result.value.detach())
        out: Tensor = self.decoder(z)
        return out

    def _normalized(self, logits: Tensor, source: Tensor, degree: Tensor) -> Tensor:
        """Return weights (E, H) that sum to at most 1 over the edges of a node."""
        if self.normalization == "degree":
            return logits.clamp(0, 1) / degree[source]
        index = source.unsqueeze(1).expand_as(logits)
        largest = logits.new_full((len(degree), self.num_heads), -torch.inf)
        largest = largest.scatter_reduce(0, index, logits.detach(), "amax")
        powers = (logits - largest[source]).exp()
        total = torch.zeros_like(largest).index_add(0, source, powers)
        return powers / total[source]

    def _check(self, x: Any, edges: Any, edge_attr: Any) -> int:
        like = next(self.decoder.parameters())
        if not isinstance(edges, Tensor) or edges.dtype != torch.int64:
            got = edges.dtype if isinstance(edges, Tensor) else type_name(edges)
            raise TypeError(f"{_NAME}: edges must be a torch.Tensor of dtype torch.int64, got {got}")
        if edges.dim() != 2 or edges.shape[0] != 2:
            raise ValueError(f"{_NAME}: edges must have shape (2, E), got {tuple(edges.shape)}")
        if self.node_features:
            _check_features("x", x, ("N", self.node_features), like)
            nodes = len(x)
        else:
            nodes = count(_NAME, "x", x)
        if self.edge_features:
            _check_features("edge_attr", edge_attr, (edges.shape[1], self.edge_features), like)
        elif edge_attr is not None:
            raise ValueError(f"{_NAME}: edge_attr must be None without edge features, got {type_name(edge_attr)}")
        if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= nodes):
            wrong = int(edges.min()) if int(edges.min()) < 0 else int(edges.max())
            raise ValueError(f"{_NAME}: edges must be between nodes from 0 to {nodes - 1}, got {wrong}")
        return nodes


def _two_layers(inputs: int, hidden: int, outputs: int, options: dict[str, Any]) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden, **options), nn.SiLU(), nn.Linear(hidden, outputs, **options))


def _joined(h: Tensor, source: Tensor, target: Tensor, edge_attr: Tensor | None) -> Tensor:
    parts = [h[source], h[target], *([] if edge_attr is None else [edge_attr])]
    return torch.cat(parts, 1)


def _check_features(name: str, x: Any, shape: tuple[Any, int], like: Tensor) -> None:
    if not isinstance(x, Tensor) or x.dtype != like.dtype:
        got = x.dtype if isinstance(x, Tensor) else type_name(x)
        raise TypeError(f"{_NAME}: {name} must be a torch.Tensor of dtype {like.dtype}, got {got}")
    if x.dim() != 2 or x.shape[1] != shape[1] or (shape[0] != "N" and len(x) != shape[0]):
        raise ValueError(f"{_NAME}: {name} must have shape ({shape[0]}, {shape[1]}), got {tuple(x.shape)}")
