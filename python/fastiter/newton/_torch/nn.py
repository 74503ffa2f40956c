"""ParaGRU and ParaLSTM: gated recurrences with diagonal recurrent weights, so a unit depends only on its own past."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..._torch.linear import linear
from ..._torch.modules.calls import SegmentedCall
from ..._torch.modules.layer_docs import documented_layer
from ..._torch.modules.sequence_layer import Part, SequenceLayer, State, check_bool, check_choice, check_heads, name_of
from .._cells import METHODS
from .._results import Method
from .cuda import check_cut
from .functional import paragru, paralstm

GATES = 3  # in both cells


class _ParaLayer(SequenceLayer):
    """Input projection, block-diagonal by heads, and diagonal recurrent weights."""

    __call__: SegmentedCall[Any]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        num_heads: int = 1,
        method: Method = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first)
        self.num_heads = check_heads(self, num_heads, input_size=input_size, hidden_size=hidden_size)
        self.method: Method = check_choice(self, "method", method, METHODS)
        block = (self.num_heads, GATES, hidden_size // num_heads, input_size // num_heads)
        self.weight_ih = nn.Parameter(torch.empty(block, device=device, dtype=dtype))
        self.weight_hh = nn.Parameter(torch.empty(GATES, hidden_size, device=device, dtype=dtype))
        if check_bool(self, "bias", bias):
            self.bias = nn.Parameter(torch.empty(GATES, hidden_size, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize the parameters as in the paper."""
        outputs, inputs = self.weight_ih.shape[2:]
        bound = math.sqrt(6 / (outputs + inputs))  # Glorot and Bengio, for one gate of one head
        self.weight_ih.uniform_(-bound, bound)
        self._reset_diagonal(self.weight_hh)
        if self.bias is not None:
            # The first gate's bias decreases with the unit's index, so that later units remember for longer.
            self.bias.zero_()
            self.bias[0] = torch.linspace(0, -1, self.hidden_size, dtype=self.bias.dtype, device=self.bias.device)

    def _reset_diagonal(self, weight: Tensor) -> None:
        weight.normal_(0, 2 / math.sqrt(5 * self.hidden_size))

    def extra_repr(self) -> str:
        """Return the sizes, and the options that differ from their defaults."""
        parts = [f"{self.input_size}, {self.hidden_size}"]
        parts += [f"num_heads={self.num_heads}"] if self.num_heads != 1 else []
        parts += ["bias=False"] if self.bias is None else []
        parts += ["batch_first=True"] if self.batch_first else []
        parts += [f"method={self.method!r}"] if self.method != "auto" else []
        return ", ".join(parts)

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: Any = None,
        lengths: Tensor | Sequence[int] | None = None,
        *,
        reset: Tensor | None = None,
        cu_seqlens: Tensor | Sequence[int] | None = None,
    ) -> tuple[Any, Any]:
        """Return output and final state for input (T, B, I), (B, T, I) if batch_first, (T, I), or a PackedSequence.

        Parameters
        ----------
        input : Tensor or PackedSequence
            The input, with the dtype and device of the parameters.
        state : Tensor, or tuple or list of Tensor, optional
            Initial state, in the form that the layer returns, without B for unbatched input. A single Tensor may be in
            a tuple. None: zeros.
        lengths : integers (B,), optional
            Number of valid steps of each row of a padded batch, 0 to T. Later steps are ignored, and their output is 0.
            Not for a PackedSequence, which has its own, nor for unbatched input.
        reset : Tensor, optional
            bool (T, B), or (B, T) if batch_first, or (T,): steps at which a new sequence starts, from a state of zeros.
        cu_seqlens : integers (S + 1,), optional
            Bounds of S sequences concatenated in input (M, I); in the state, B is S.

        Returns
        -------
        output : Tensor or PackedSequence
            hidden_size features at each step, in the form of the input.
        state : Tensor, or tuple of Tensor
            The state after the last valid step of each row.

        Raises
        ------
        TypeError, ValueError
            For a wrong type or dtype; for a wrong shape or value.
        BackendError
            For tensors on different devices, or on a device other than the CPU or CUDA; on CUDA, for reset or
            cu_seqlens.
        """
        if self._like().is_cuda:
            check_cut(name_of(self), reset, cu_seqlens)
        return self._divided(input, state, lengths, reset, cu_seqlens)

    def _like(self) -> Tensor:
        return self.weight_hh

    def _project(self, x: Tensor) -> Tensor:
        """Return W x + b (..., 3, H), the input's contribution to the gates."""
        heads, gates, outputs, inputs = self.weight_ih.shape
        if heads == 1:
            bias = None if self.bias is None else self.bias.flatten()
            return linear(x, self.weight_ih.reshape(gates * outputs, inputs), bias).unflatten(-1, (gates, outputs))
        parts = [
            linear(x_head, weight.reshape(gates * outputs, inputs)).unflatten(-1, (gates, outputs))
            for x_head, weight in zip(x.chunk(heads, -1), self.weight_ih.unbind(0), strict=True)
        ]
        wx = torch.cat(parts, -1)
        return wx if self.bias is None else wx + self.bias


@documented_layer(num_heads="num_heads_of_input", dtype="dtype_own")
class ParaGRU(_ParaLayer):
    """h_t = z q + (1 - z) h_{t-1}, q = tanh(W_q x_t + b_q + a_q r h_{t-1}), z, r = sigmoid(W x_t + b + a h_{t-1}).

    A GRU with diagonal recurrent weights, so that all steps can be solved at once. z multiplies the new value q, where
    torch.nn.GRU has 1 - z.

    Parameters: `weight_ih` (num_heads, 3, H / num_heads, I / num_heads), `weight_hh` (3, H) and `bias` (3, H), with the
    gates in the order z, r, q. Initially weight_ih ~ U(-g, g) with g = sqrt(6 / (fan in + fan out)) of one gate of one
    head, and weight_hh ~ N(0, 4 / (5 H)); the bias of z decreases from 0 to -1 over the units, the others are 0.

    Parameters
    ----------
    %(parameters)s

    Raises
    ------
    TypeError, ValueError
        For an option of a wrong type or value.

    See Also
    --------
    ParaLSTM : The layer with a cell state and peepholes.
    GRU : The layer with full recurrent weights.
    fastiter.torch.paragru : The recurrence as a function.

    References
    ----------
    Danieli et al., ParaRNN: Unlocking parallel training of nonlinear RNNs for large language models, 2025.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import ParaGRU
    >>> gru = ParaGRU(6, 8, num_heads=2)
    >>> x = torch.randn(10, 3, 6)
    >>> y, h = gru(x)  # h (B, H): there is one layer, and its state has no axis for it
    >>> y.shape, h.shape
    (torch.Size([10, 3, 8]), torch.Size([3, 8]))
    >>> y, h = gru(x[:9])
    >>> y, h = gru.step(x[9], h)  # the same h again
    """

    __call__: SegmentedCall[Tensor]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        num_heads: int = 1,
        method: Method = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size, bias, batch_first, device, dtype, num_heads=num_heads, method=method)
        self.reset_parameters()

    def _parts(self) -> Sequence[Part]:
        return (Part("h", (self.hidden_size,), self.weight_hh.dtype),)

    def _run(
        self, x: Tensor, time: int, first: State | None, lengths: Tensor | None, **cut: Any
    ) -> tuple[Tensor, Sequence[Tensor]]:
        wx, state = self._rows(self._project(x), time), None if first is None else first[0]
        h, last, *_ = paragru(wx, self.weight_hh, state, method=self.method, lengths=lengths, **cut)
        return self._rows(h, time), last


@documented_layer(num_heads="num_heads_of_input", dtype="dtype_own")
class ParaLSTM(_ParaLayer):
    """h_t = o tanh(c_t), c_t = f c_{t-1} + (1 - f) q, with f, q, o as in an LSTM with diagonal weights and peepholes.

    f = sigmoid(W_f x_t + b_f + a_f h_{t-1} + p_f c_{t-1}), q = tanh(W_q x_t + b_q + a_q h_{t-1}) and
    o = sigmoid(W_o x_t + b_o + a_o h_{t-1} + p_o c_t): the input gate is 1 - f. The state is (h, c).

    Parameters: `weight_ih` (num_heads, 3, H / num_heads, I / num_heads), `weight_hh` (3, H) and `bias` (3, H), with the
    gates in the order f, o, q; `weight_ch` (2, H), the peepholes of f and o. Initialised as in :class:`ParaGRU`, with
    the peepholes like weight_hh; the bias that decreases from 0 to -1 is that of f.

    Parameters
    ----------
    %(parameters)s

    Raises
    ------
    TypeError, ValueError
        For an option of a wrong type or value.

    See Also
    --------
    ParaGRU : The layer without a cell state.
    LSTM : The layer with full recurrent weights.
    fastiter.torch.paralstm : The recurrence as a function.

    References
    ----------
    Danieli et al., ParaRNN: Unlocking parallel training of nonlinear RNNs for large language models, 2025; Gers and
    Schmidhuber, Recurrent nets that time and count, 2000 (peepholes).

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import ParaLSTM
    >>> y, (h, c) = ParaLSTM(5, 8, batch_first=True)(torch.randn(3, 10, 5))
    >>> y.shape, c.shape
    (torch.Size([3, 10, 8]), torch.Size([3, 8]))
    """

    __call__: SegmentedCall[tuple[Tensor, Tensor]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        num_heads: int = 1,
        method: Method = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size, bias, batch_first, device, dtype, num_heads=num_heads, method=method)
        self.weight_ch = nn.Parameter(torch.empty(2, hidden_size, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize the parameters as in the paper."""
        super().reset_parameters()
        self._reset_diagonal(self.weight_ch)

    def _parts(self) -> Sequence[Part]:
        return tuple(Part(name, (self.hidden_size,), self.weight_hh.dtype) for name in ("h", "c"))

    def _run(
        self, x: Tensor, time: int, first: State | None, lengths: Tensor | None, **cut: Any
    ) -> tuple[Tensor, Sequence[Tensor]]:
        wx = self._rows(self._project(x), time)
        h, last, *_ = paralstm(wx, self.weight_hh, self.weight_ch, first, method=self.method, lengths=lengths, **cut)
        return self._rows(h, time), last
