"""LSTM and GRU with weights, inputs, states and gradients rounded to the formats of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import GRU as _GRU  # bound here, as in rnn.py
from torch.nn import LSTM as _LSTM
from torch.nn import functional as F

from ...._backend import BackendError
from ...._check import type_name
from ...._torch.modules.layer_docs import documented_layer
from ...._torch.ops import autocast_dtype, autocast_to, check_dense, unwatched
from ....rnn._cells import CELLS
from ....rnn._torch.nn.checks import check_place, layers_of
from ....rnn._torch.nn.layer import Direction, Parameters, layer
from .layers import QuantLayer
from .plan import QuantPlan, check_plan, new_gradient_quantizer, new_quantizer, plan_linear
from .quantizer import Quantizer

States = tuple[Tensor, ...]


class _Part(NamedTuple):
    """One direction of one layer: its suffix, as in weight_ih_l0_reverse, and whether it runs backward in time."""

    suffix: str
    reverse: bool


class QuantRecurrent(QuantLayer, nn.RNNBase):
    """Base of QuantLSTM and QuantGRU.

    Each direction of each layer has its own quantizers, named by their suffix: weight_ih_l0_quantizer, and so on. Given
    initial states are not rounded, as they are the rounded states of an earlier call.
    """

    rounds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "input", "output", "state", "gradient")
    cell: str
    state_names: tuple[str, ...]

    def _parts(self) -> Iterator[_Part]:
        for k in range(self.num_layers):
            yield _Part(f"l{k}", False)
            if self.bidirectional:
                yield _Part(f"l{k}_reverse", True)

    def set_plan(self, plan: QuantPlan) -> None:
        """Replace the quantizers of each direction of each layer by new ones for this plan.

        Parameters
        ----------
        plan : QuantPlan
            The formats.
        """
        name = type(self).__name__
        self.plan = check_plan(name, plan)
        for what, value in (("proj_size", self.proj_size), ("num_heads - 1", getattr(self, "num_heads", 1) - 1)):
            if value != 0:
                raise ValueError(f"{name}: {what} must be 0, got {value}")
        for part in self._parts():
            for what in self.rounds:
                parameter = getattr(self, f"{what}_{part.suffix}", None)
                choice = getattr(plan, what.partition("_")[0])
                if what == "gradient":
                    quantizer: Quantizer | None = new_gradient_quantizer(choice)
                elif (what == "state" and "c" not in self.state_names) or (what.startswith("bias") and not self.bias):
                    quantizer = None
                else:
                    shape = tuple(parameter.shape) if isinstance(parameter, Tensor) else None
                    quantizer = new_quantizer(choice, shape)
                self._give(f"{what}_{part.suffix}_quantizer", quantizer)

    def initialize(self) -> None:
        """Initialize the parameters' quantizers from the parameters, as the first call would."""
        for part in self._parts():
            for what in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                quantizer = getattr(self, f"{what}_{part.suffix}_quantizer")
                if quantizer is not None:
                    quantizer.initialize(getattr(self, f"{what}_{part.suffix}"))

    def products(self, output: Any) -> dict[str, tuple[int, str]]:
        """Return for each weight the number of multiplications of a call, and the name of the other factor.

        Parameters
        ----------
        output : tuple
            The result of the call.

        Returns
        -------
        dict of str to (int, str)
            By the weight's name: the number, and the name of the other factor.
        """
        directions = 2 if self.bidirectional else 1
        steps = int(output[0].numel()) // (self.hidden_size * directions)
        counts: dict[str, tuple[int, str]] = {}
        for part in self._parts():
            for what, other in (("weight_ih", "input"), ("weight_hh", "output")):
                weight = getattr(self, f"{what}_{part.suffix}")
                counts[f"{what}_{part.suffix}"] = steps * int(weight.numel()), f"{other}_{part.suffix}"
        return counts

    def _run(self, input: Tensor, hx: States | None) -> tuple[Tensor, States]:
        name = type(self).__name__
        if not isinstance(input, Tensor):
            raise TypeError(f"{name}: input must be a Tensor, got {type_name(input)}")
        check_dense(name, "input", input)
        if input.dim() not in (2, 3) or input.shape[-1] != self.input_size:
            expected = f"2 or 3 axes and {self.input_size} features along the last"
            raise ValueError(f"{name}: input must have {expected}, got shape {tuple(input.shape)}")
        x = input.unsqueeze(1) if input.dim() == 2 else input.transpose(0, 1) if self.batch_first else input
        if x.shape[0] == 0:
            raise ValueError(f"{name}: input must have at least one time step, got shape {tuple(input.shape)}")
        layers = [quantizer.parameters for quantizer in layers_of(self, CELLS[self.cell])]
        check_place(name, layers[0].w_ih, input)
        self._check_dtype("input", input, layers[0].w_ih)
        states = self._checked_states(hx, x, layers[0].w_ih, input.dim() == 2)
        finals: list[States] = []
        for first in range(0, len(states), 2 if self.bidirectional else 1):
            if first > 0 and self.training and self.dropout > 0:
                x = F.dropout(x, self.dropout)
            outs = []
            for k, part in list(enumerate(self._parts()))[first : first + (2 if self.bidirectional else 1)]:
                out, last = self._direction(x, part, layers[k], states[k])
                outs.append(out)
                finals.append(last)
            x = torch.cat(outs, -1) if self.bidirectional else outs[0]
        last = tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
        if input.dim() == 2:
            return x.squeeze(1), tuple(s.squeeze(1) for s in last)
        return x.transpose(0, 1) if self.batch_first else x, last

    def _check_dtype(self, what: str, x: Tensor, weight: Tensor) -> None:
        """Check that x has the dtype of the parameters, or under autocast any dtype that it casts."""
        casts = autocast_dtype(weight) is not None and x.is_floating_point()
        if x.dtype == weight.dtype or (casts and torch.float64 not in (x.dtype, weight.dtype)):
            return
        error = ValueError if what == "input" else TypeError  # as torch.nn's
        expected, got = (str(dtype).removeprefix("torch.") for dtype in (weight.dtype, x.dtype))
        raise error(f"{type(self).__name__}: {what} must be {expected} like the parameters, got {got}")

    def _checked_states(self, hx: States | None, x: Tensor, weight: Tensor, single: bool) -> list[States]:
        """Return the initial states (B, H) of each direction of each layer."""
        rows, count = len(list(self._parts())), len(self.state_names)
        if hx is None:
            zeros = x.new_zeros(x.shape[1], self.hidden_size)
            return [(zeros,) * count] * rows
        shape = (rows, self.hidden_size) if single else (rows, x.shape[1], self.hidden_size)
        fits = isinstance(hx, (tuple, list)) and len(hx) == count and all(isinstance(s, Tensor) for s in hx)
        if not fits or any(s.shape != shape for s in hx):
            got = [tuple(s.shape) if isinstance(s, Tensor) else type_name(s) for s in hx] if fits else type_name(hx)
            raise ValueError(f"{type(self).__name__}: hx must be {count} Tensor of shape {shape}, got {got}")
        for s in hx:
            if s.device != weight.device:
                expected = f"on {weight.device} like the parameters"
                raise BackendError(f"{type(self).__name__}: hx must be {expected}, got {s.device}")
            self._check_dtype("hx", s, weight)
        return [tuple(s[k].unsqueeze(0) if single else s[k] for s in hx) for k in range(rows)]

    def _direction(self, x: Tensor, part: _Part, own: Parameters, first: States) -> tuple[Tensor, States]:
        """Return h (T, B, H) of all steps, and the final states (B, H)."""
        quantizers = {what: getattr(self, f"{what}_{part.suffix}_quantizer") for what in self.rounds}

        def rounded(what: str, value: Tensor) -> Tensor:
            quantizer = quantizers[what]
            return value if quantizer is None else quantizer(value)

        w_ih, w_hh, b_ih, b_hh = own
        biases = (
            None if b_ih is None else rounded("bias_ih", b_ih),
            None if b_hh is None else rounded("bias_hh", b_hh),
        )
        parameters = Parameters(rounded("weight_ih", w_ih), rounded("weight_hh", w_hh), *biases)
        x = rounded("input", x)
        loop = any(quantizers[what] is not None for what in ("output", "state", "gradient"))
        if not loop and self.plan.accumulator is None:
            return self._all_steps(x, part, parameters, first)
        wx, states, outs = plan_linear(self.plan, x, parameters.w_ih, parameters.b_ih), first, []
        for t in range(len(wx) - 1, -1, -1) if part.reverse else range(len(wx)):
            states = self._step(wx[t], states, parameters, rounded)
            outs.append(states[0])
        return torch.stack(outs[::-1] if part.reverse else outs), states

    def _all_steps(self, x: Tensor, part: _Part, parameters: Parameters, first: States) -> tuple[Tensor, States]:
        """Return the same with the kernels of LSTM and GRU, in the autocast dtype if autocast is on."""
        dtypes, low = [s.dtype for s in first], autocast_dtype(parameters.w_ih)
        if low is not None:
            x, parameters = autocast_to(x, low), Parameters(*(autocast_to(p, low) for p in parameters))
            check_place(type(self).__name__, parameters.w_ih, x)
            first = tuple(autocast_to(s, low) for s in first)
            if self.cell != "gru":  # its states are not directly the result of a product
                dtypes = [s.dtype for s in first]
        rest = torch.float32 if x.dtype.itemsize == 2 else x.dtype
        start = (first[0].unsqueeze(1), *(s.unsqueeze(1).to(rest) for s in first[1:]))
        direction = Direction(CELLS[self.cell], 1, part.reverse, None)
        out, last = layer(direction, x.contiguous(), parameters, start, plain=unwatched())
        return out.to(dtypes[0]), tuple(s.squeeze(0).to(dtype) for s, dtype in zip(last, dtypes, strict=True))

    def _step(self, wx: Tensor, states: States, parameters: Parameters, rounded: Any) -> States:
        raise NotImplementedError


@documented_layer(proj_size="proj_size_zero", dtype="dtype_quantized")
class QuantLSTM(QuantRecurrent, _LSTM):
    """h_t = Q_output(o tanh(c_t)), c_t = Q_state(f c_{t-1} + i g), gates of Q(W) Q_input(x_t) + Q(R) h_{t-1} + Q(b).

    A torch.nn.LSTM with the same parameter names; h is rounded before the next step and layer use it. The gradient of
    the gates' pre-activations is rounded before it is multiplied with weights and states. The recurrence is a Python
    loop, or that of :class:`fastiter.torch.nn.LSTM` if the plan has none of output, state, gradient and accumulator.

    Parameters
    ----------
    %(parameters)s

    Raises
    ------
    TypeError, ValueError
        For wrong arguments, inputs and states; a PackedSequence is refused.

    See Also
    --------
    LSTM : Without rounding.
    QuantPlan : The formats.
    quantize_model : Replaces the layers of a model.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import FixedQuantizer, QuantLSTM, QuantPlan
    >>> plan = QuantPlan(weight=FixedQuantizer(6), output="fixed<8,1,RND,SAT>", state="fixed<8,3,RND,SAT>")
    >>> y, (h, c) = QuantLSTM(5, 8, plan=plan)(torch.randn(10, 3, 5))
    >>> y.shape, torch.equal(y * 128, (y * 128).round()), torch.equal(c * 32, (c * 32).round())
    (torch.Size([10, 3, 8]), True, True)
    """

    __call__: Callable[..., tuple[Tensor, tuple[Tensor, Tensor]]]

    cell, state_names = "lstm", ("h", "c")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        plan: QuantPlan | None = None,
    ) -> None:
        others = (num_layers, bias, batch_first, dropout, bidirectional)
        _LSTM.__init__(self, input_size, hidden_size, *others, proj_size, device=device, dtype=dtype)
        self.set_plan(QuantPlan() if plan is None else plan)

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, States]:
        """Return the output and the final states.

        Parameters
        ----------
        input : Tensor (T, B, I)
            The sequences; (B, T, I) if batch_first, (T, I) without a batch.
        hx : tuple of Tensor, optional
            h and c, (layers * directions, B, H), zeros by default.

        Returns
        -------
        output : Tensor (T, B, H)
            The last layer's h at each step.
        (h, c) : tuple of Tensor
            The states after the last step.
        """
        return self._run(input, hx)

    def _step(self, wx: Tensor, states: States, parameters: Parameters, rounded: Any) -> States:
        h, c = states
        i, f, g, o = rounded("gradient", wx + plan_linear(self.plan, h, parameters.w_hh, parameters.b_hh)).chunk(4, -1)
        c = rounded("state", torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g))
        return rounded("output", torch.sigmoid(o) * torch.tanh(c)), c


@documented_layer(dtype="dtype_quantized")
class QuantGRU(QuantRecurrent, _GRU):
    """h_t = Q_output(z h_{t-1} + (1 - z) n), with gates of Q(W) Q_input(x_t) and Q(R) h_{t-1}, each with its bias.

    A torch.nn.GRU with the same parameter names; rounding and errors as for :class:`QuantLSTM`.

    Parameters
    ----------
    %(parameters)s

    See Also
    --------
    GRU : Without rounding.
    QuantPlan : The formats.
    quantize_model : Replaces the layers of a model.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import QuantGRU, QuantPlan
    >>> y, h = QuantGRU(5, 8, bidirectional=True, plan=QuantPlan(weight="e4m3fn"))(torch.randn(10, 3, 5))
    >>> y.shape, h.shape
    (torch.Size([10, 3, 16]), torch.Size([2, 3, 8]))
    """

    __call__: Callable[..., tuple[Tensor, Tensor]]

    cell, state_names = "gru", ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        plan: QuantPlan | None = None,
    ) -> None:
        others = (num_layers, bias, batch_first, dropout, bidirectional)
        _GRU.__init__(self, input_size, hidden_size, *others, device=device, dtype=dtype)
        self.set_plan(QuantPlan() if plan is None else plan)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the output and the final state.

        Parameters
        ----------
        input : Tensor (T, B, I)
            The sequences; (B, T, I) if batch_first, (T, I) without a batch.
        hx : Tensor, optional
            h, (layers * directions, B, H), zeros by default.

        Returns
        -------
        output : Tensor (T, B, H)
            The last layer's h at each step.
        h : Tensor
            The state after the last step.
        """
        output, (h,) = self._run(input, None if hx is None else (hx,))
        return output, h

    def _step(self, wx: Tensor, states: States, parameters: Parameters, rounded: Any) -> States:
        (h,) = states
        outer, inner = (
            rounded("gradient", wx),
            rounded("gradient", plan_linear(self.plan, h, parameters.w_hh, parameters.b_hh)),
        )
        (r, z, n), (r_h, z_h, n_h) = outer.chunk(3, -1), inner.chunk(3, -1)
        z = torch.sigmoid(z + z_h)
        return (rounded("output", z * h + (1 - z) * torch.tanh(n + torch.sigmoid(r + r_h) * n_h)),)
