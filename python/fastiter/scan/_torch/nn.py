"""LinearRNN: a diagonal linear recurrence with input-dependent eigenvalues; units can decay, alternate or rotate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..._torch.modules.calls import SequenceCall
from ..._torch.modules.sequence_layer import Part, SequenceLayer, State, check_bool, check_choice
from .functional import linear_scan

EIGENVALUES = ("signed", "positive", "complex")
RING = 0.8, 0.999  # range of |a| at initialisation


class LinearRNN(SequenceLayer):
    """y_t = out_proj(h_t), h_t = a_t h_{t-1} + in_proj(x_t), a_t = 2 sigmoid(gate_proj(x_t)) - 1, elementwise.

    `eigenvalues` sets the range of a. "positive": sigmoid(g), from 0 to 1: a state can be kept or forgotten. "signed":
    2 sigmoid(g) - 1, from -1 to 1: a state can also alternate, which parity requires. "complex": sigmoid(g) exp(i p),
    in the unit disc: the phase p rotates the state, which counting modulo 3 requires; h and in_proj(x) are complex, and
    y is a projection of the real and imaginary parts.

    Parameters: `in_proj` (H, or 2 H: real parts, then imaginary parts), `gate_proj` (H, or 2 H: g, then p), `out_proj`.
    With `input_dependent=False` a is the same at all steps, and the parameter `gate` replaces gate_proj. With complex
    eigenvalues this is the LRU, with sigmoid(g) in place of its exp(-exp(nu)). The state h is (B, H), complex if a is.

    Initialisation is as in the LRU: where the projected x is 0, |a|^2 is uniform in [0.8^2, 0.999^2], the phase uniform
    in [-pi, pi], the sign random; the rows of in_proj are scaled by sqrt(1 - |a|^2), so that h has the variance of its
    input.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H. The output has H features.
    bias : bool
        Whether in_proj and out_proj have a bias.
    batch_first : bool
        Batches are (B, T, .). As in torch.nn they are (T, B, .) by default.
    device : torch.device, optional
        The device of the parameters.
    dtype : torch.dtype, optional
        float32 or float64. Under autocast the projections run in its dtype, the recurrence in the parameters'.
    eigenvalues : {"signed", "positive", "complex"}
        The range of a, as above.
    input_dependent : bool
        False: a is a parameter, the same for all inputs.

    Raises
    ------
    TypeError, ValueError
        For an option of a wrong type or value.

    See Also
    --------
    DeltaNet : A layer whose state is a matrix.
    ParaGRU : A layer whose gates depend on the state.
    fastiter.torch.linear_scan : The recurrence as a function.

    References
    ----------
    Orvieto et al., Resurrecting recurrent neural networks for long sequences, 2023: the LRU and its initialisation.
    Grazzi et al., Unlocking state-tracking in linear RNNs through negative eigenvalues, 2025.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import LinearRNN
    >>> rnn = LinearRNN(5, 8, eigenvalues="complex", batch_first=True)
    >>> y, h = rnn(torch.randn(3, 10, 5))
    >>> y.shape, h.shape, h.dtype
    (torch.Size([3, 10, 8]), torch.Size([3, 8]), torch.complex64)
    >>> y, h = rnn.step(torch.randn(3, 5), h)
    """

    __call__: SequenceCall[Tensor]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        eigenvalues: Literal["signed", "positive", "complex"] = "signed",
        input_dependent: bool = True,
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first)
        self.eigenvalues = check_choice(self, "eigenvalues", eigenvalues, EIGENVALUES)
        check_bool(self, "bias", bias)
        kind: dict[str, Any] = {"device": device, "dtype": dtype}
        width = hidden_size * self._reals()
        self.in_proj = nn.Linear(input_size, width, bias, **kind)
        if check_bool(self, "input_dependent", input_dependent):
            self.gate_proj: nn.Linear | None = nn.Linear(input_size, width, **kind)
            self.register_parameter("gate", None)
        else:
            self.gate_proj = None
            self.gate = nn.Parameter(torch.empty(width, **kind))
        self.out_proj = nn.Linear(width, hidden_size, bias, **kind)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize the parameters: projections like torch.nn.Linear, a like the LRU."""
        for module in self.children():
            module.reset_parameters()  # type: ignore[operator]
        gate = self._gate()
        like, size = gate.new_empty, self.hidden_size
        radius = like(size).uniform_(RING[0] ** 2, RING[1] ** 2).sqrt()
        if self.eigenvalues == "signed":
            a = radius * (2.0 * like(size).bernoulli_(0.5) - 1)
            gate.copy_(((1 + a) / 2).logit())
        else:
            gate[:size] = radius.logit()
            gate[size:].uniform_(-math.pi, math.pi)
        scale = (1 - radius.square()).sqrt()
        self.in_proj.weight.mul_(scale.repeat(self._reals()).unsqueeze(1))

    def extra_repr(self) -> str:
        """Return the sizes, and the options that differ from their defaults."""
        parts = [f"{self.input_size}, {self.hidden_size}"]
        parts += ["bias=False"] if self.in_proj.bias is None else []
        parts += ["batch_first=True"] if self.batch_first else []
        parts += [f"eigenvalues={self.eigenvalues!r}"] if self.eigenvalues != "signed" else []
        parts += ["input_dependent=False"] if self.gate_proj is None else []
        return ", ".join(parts)

    def _reals(self) -> int:
        """Return the number of real numbers per unit of the state."""
        return 2 if self.eigenvalues == "complex" else 1

    def _gate(self) -> Tensor:
        """Return the gate's constant part: the bias of gate_proj, or `gate`."""
        return self.gate if self.gate_proj is None else self.gate_proj.bias

    def _like(self) -> Tensor:
        return self.out_proj.weight

    def _parts(self) -> Sequence[Part]:
        dtype = self._like().dtype
        return (Part("h", (self.hidden_size,), dtype.to_complex() if self._reals() == 2 else dtype),)

    def _run(
        self, x: Tensor, time: int, first: State | None, lengths: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        u = self._rows(self._cast(self.in_proj(x)), time)
        if self._reals() == 2:
            u = torch.complex(*u.chunk(2, -1))
        gate = self.gate if self.gate_proj is None else self._rows(self._cast(self.gate_proj(x)), time)
        h, last = linear_scan(self._eigenvalues(gate), u, None if first is None else first[0], lengths=lengths)
        if self._reals() == 2:
            h = torch.cat([h.real, h.imag], -1)
        return self._rows(self.out_proj(h), time), (last,)

    def _eigenvalues(self, gate: Tensor) -> Tensor:
        if self.eigenvalues == "signed":
            return torch.tanh(gate / 2)  # 2 sigmoid(gate) - 1
        if self.eigenvalues == "positive":
            return torch.sigmoid(gate)
        radius, phase = gate.chunk(2, -1)
        return torch.polar(torch.sigmoid(radius), phase)
