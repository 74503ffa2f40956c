"""The association of Hopfield layers: projections into the heads' space, updates, and the values that are retrieved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...._call.iterate import Limits
from ..._hopfield_shapes import Stopping
from ..hopfield import Problem, association, solved

#: The maximum number of updates if ``update_steps_max`` is None
MAX_STEPS = 1000


class Sizes(NamedTuple):
    """Widths of the patterns before their projection; of a head, of its values, and of the output."""

    state: int | None
    stored: int | None
    projection: int | None
    head: int | None
    value: int | None
    out: int | None


class Static(NamedTuple):
    """Whether patterns are used without a projection; connected: that of stored patterns applies to values, too."""

    stored: bool
    state: bool
    projection: bool
    connected: bool


class Updates(NamedTuple):
    """The maximum number of updates and the tolerance of each head."""

    max_steps: Any
    eps: Any


class HopfieldCore(nn.Module):
    """Parameters with the names and layouts of hopfield-layers' HopfieldCore, and their computations."""

    in_proj_weight: nn.Parameter | None
    in_proj_bias: nn.Parameter | None
    p_norm_weight: nn.Parameter | None
    p_norm_bias: nn.Parameter | None
    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

    def __init__(self, sizes: Sizes, heads: int, static: Static, *, bias: bool, options: dict[str, Any]) -> None:
        super().__init__()
        self.sizes, self.num_heads, self.static = sizes, heads, static
        self.dropout: float = options["dropout"]
        self.add_zero: bool = options["zero"]
        self.normalizes: bool = options["normalize"]
        self.normalize_eps: float = options["normalize_eps"]
        hidden, values = (None if size is None else heads * size for size in (sizes.head, sizes.value))
        self._own(["p_norm_weight", "p_norm_bias"], [(sizes.head,)] * 2, options["normalize_affine"])
        rows = [
            0 if is_static else width or 0
            for is_static, width in zip(self._order(), (hidden, hidden, values), strict=True)
        ]
        arguments = (sizes.state, sizes.stored, hidden if static.connected and not static.stored else sizes.projection)
        alike = sizes.state == sizes.stored == sizes.projection and sizes.value == sizes.head and not static.connected
        self.is_joint = alike and not options["own_values"]
        self._own(["in_proj_weight"], [(sum(rows), sizes.state)], self.is_joint and sum(rows) > 0)
        for name, count, width in zip("qkv", rows, arguments, strict=True):
            self._own([f"{name}_proj_weight"], [(count, width)], not self.is_joint and count > 0)
        self._own(["in_proj_bias"], [(rows[0] + rows[1] + (values or 0),)], bias and sum(rows) > 0)
        self.out_proj = None if options["no_output"] else nn.Linear(values or 0, sizes.out or 0, bias=bias)
        self._own(["bias_k", "bias_v"], [(1, 1, hidden)] * 2, options["concat_bias"])
        self._rows = rows
        self.reset_parameters()

    def _order(self) -> tuple[bool, bool, bool]:
        return self.static.state, self.static.stored, self.static.projection

    def _own(self, names: list[str], shapes: list[Any], present: bool) -> None:
        for name, shape in zip(names, shapes, strict=True):
            self.register_parameter(name, nn.Parameter(torch.empty(shape)) if present else None)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize weights ~ N(0, 0.02^2) and biases to 0, as hopfield-layers does."""
        for name, parameter in self.named_parameters():
            if name == "p_norm_weight":
                nn.init.ones_(parameter)
            elif name in ("in_proj_bias", "out_proj.bias", "p_norm_bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.02)

    def _projections(self) -> Iterator[tuple[Tensor | None, Tensor | None]]:
        """Yield weight and bias of states, of stored patterns and of values, None where there is none."""
        start = 0
        for name, rows in zip("qkv", self._rows, strict=True):
            joint, bias = self.in_proj_weight, self.in_proj_bias
            weight = joint[start : start + rows] if self.is_joint and joint is not None else None
            weight = getattr(self, f"{name}_proj_weight") if weight is None else weight
            yield weight if rows else None, bias[start : start + rows] if rows and bias is not None else None
            start += rows

    def _by_head(self, x: Tensor) -> Tensor:
        """(B, N, H D) -> (B, H, N, D)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _projected(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return the patterns (B, N, E) in the space of the heads: static ones are the same for each head."""
        if weight is None:
            return x.unsqueeze(1).expand(-1, self.num_heads, -1, -1)
        return self._by_head(F.linear(x, weight, bias))

    def _normalized(self, x: Tensor) -> Tensor:
        weight, bias = self.p_norm_weight, self.p_norm_bias
        return F.layer_norm(x, x.shape[-1:], weight, bias, self.normalize_eps) if self.normalizes else x

    def in_heads(self, state: Tensor, stored: Tensor, projection: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, (B, H, ., .), from patterns (B, ., E)."""
        of_state, of_stored, of_values = self._projections()
        q, k = self._projected(state, *of_state), self._projected(stored, *of_stored)
        if self.static.connected and not self.static.stored:
            weight, bias = of_stored
            projection = F.linear(projection, weight, bias)  # type: ignore[arg-type]
        if self.static.connected and self.static.projection and not self.static.stored:
            v = self._by_head(projection)
        else:
            v = self._projected(projection, *of_values)
        q, k = self._normalized(q), self._normalized(k)
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (
                torch.cat([x, self._by_head(b).expand(len(x), -1, -1, -1)], 2)
                for x, b in ((k, self.bias_k), (v, self.bias_v))
            )
        return (q, F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))) if self.add_zero else (q, k, v)

    def bias_of(self, like: Tensor, padding: Tensor | None, mask: Tensor | None, patterns: int) -> Tensor | None:
        """Return the bias for masks, (B or 1, H or 1, L or 1, S); True in a mask: not retrieved."""
        result = None
        for x in (padding, mask):
            if x is None:
                continue
            bias = (
                torch.zeros((), dtype=like.dtype, device=like.device).masked_fill(x, -torch.inf)
                if x.dtype == torch.bool
                else x
            )
            if x is padding:
                bias = bias[:, None, None, :]
            elif bias.dim() == 3:
                bias = bias.unflatten(0, (-1, self.num_heads))
            else:
                bias = bias[None, None]
            result = bias if result is None else result + bias
        if result is None:
            return None
        return F.pad(
            result.to(like.dtype), (0, patterns - result.shape[-1])
        )  # patterns that the layer adds are never masked

    def updated(self, q: Tensor, k: Tensor, beta: Tensor, bias: Tensor | None, updates: Updates) -> Tensor:
        """Return the queries after their updates, groups of heads with the same limits together."""
        heads = self.num_heads
        max_steps = updates.max_steps.tolist() if isinstance(updates.max_steps, Tensor) else [updates.max_steps] * heads
        eps = updates.eps.tolist() if isinstance(updates.eps, Tensor) else [updates.eps] * heads
        limits = [(None if n is None or n < 0 else int(n), float(e)) for n, e in zip(max_steps, eps, strict=True)]
        if all(n == 0 for n, _ in limits):
            return q
        kinds = list(dict.fromkeys(limits))
        parts: dict[int, Tensor] = {}
        for kind in kinds:
            which = [i for i, each in enumerate(limits) if each == kind]
            of_heads = slice(None) if len(kinds) == 1 else which
            own = bias if bias is None or bias.shape[1] == 1 else bias[:, of_heads]
            result = self._one_kind(q[:, of_heads], k[:, of_heads], beta[of_heads], own, kind)
            if len(kinds) == 1:
                return result
            parts |= dict(zip(which, result.unbind(1), strict=True))
        return torch.stack([parts[i] for i in range(heads)], 1)

    def _one_kind(
        self, q: Tensor, k: Tensor, beta: Tensor, bias: Tensor | None, kind: tuple[int | None, float]
    ) -> Tensor:
        max_steps, eps = kind
        if max_steps == 0:
            return q
        if bias is not None and bias.requires_grad:
            raise ValueError("Hopfield: association_mask must not require a gradient with updates, got one that does")
        axes = (q.shape[0], q.shape[1])
        whole = None if bias is None else bias.expand(*axes, q.shape[2], k.shape[2])
        problem = Problem(q, k.expand(*axes, -1, -1), beta.expand(axes), whole)
        # A query stops when an update changes it by no more than eps.
        stopping = Stopping(Limits(0.0, eps, MAX_STEPS if max_steps is None else max_steps))
        return solved(problem, stopping, max_steps is not None, "warn" if max_steps is None else "")[0]

    def forward(
        self,
        patterns: tuple[Tensor, Tensor, Tensor],
        beta: Tensor,
        updates: Updates,
        padding: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output (B, L, .), the association matrix and the values; patterns: state, stored, projection."""
        q, k, v = self.in_heads(*patterns)
        dtype = torch.promote_types(q.dtype, torch.float32)  # the updates are at least float32, also under autocast
        q, k, beta = q.to(dtype), k.to(dtype), beta.to(dtype)
        bias = self.bias_of(q, padding, mask, k.shape[2])
        q = self.updated(q, k, beta, bias, updates)
        weights = association(q, k, beta, bias).to(v.dtype)
        z = (F.dropout(weights, self.dropout, self.training) @ v).transpose(1, 2).flatten(2)
        return (z if self.out_proj is None else self.out_proj(z)), weights, v
