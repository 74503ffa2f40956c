"""LSTM, GRU, RNN: torch.nn's modules with a forward pass on fastiter's kernels. sLSTM: the same for a cell torch lacks.

Construction, parameters, initialisation, checkpoints and options are inherited from torch.nn. What differs:

* `num_heads`: the recurrent weights are block-diagonal, `weight_hh` of shape (G * H, H / num_heads).
* On the CPU float32 and float64; on CUDA devices bfloat16 and float16 too. Under autocast they compute in the dtype of
  their parameters.
* torch.compile refuses every subclass of torch.nn.LSTM, GRU and RNN (the graph breaks there, and `fullgraph=True` is an
  error) unless `torch._dynamo.config.allow_rnn = True`; with it these compile into one graph. sLSTM always does.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ._rnn_packed import step
from ._rnn_stack import forward


class _Heads(nn.RNNBase):
    """Block-diagonal recurrent weights: h_n depends on the previous h through its own head n alone."""

    # A class attribute, so that a torch.nn module whose __class__ is set to ours, or an old pickle, has one head.
    num_heads: int = 1

    def _set_heads(self, num_heads: int) -> None:
        name = type(self).__name__
        if not isinstance(num_heads, int) or isinstance(num_heads, bool):
            raise TypeError(f"{name}: num_heads must be an int, got {type(num_heads).__name__}")
        if num_heads < 1 or self.hidden_size % num_heads != 0:
            raise ValueError(f"{name}: num_heads must divide hidden_size = {self.hidden_size}, got {num_heads}")
        if num_heads == 1:
            return
        if self.proj_size > 0:
            raise ValueError(f"{name}: num_heads must be 1 with proj_size = {self.proj_size}, got {num_heads}")
        self.num_heads = num_heads
        for weights in self._all_weights:
            dense = getattr(self, weights[1])
            narrow = dense.new_empty(dense.shape[0], self.hidden_size // num_heads)
            setattr(self, weights[1], nn.Parameter(narrow))
        self._init_flat_weights()
        self.reset_parameters()

    def flatten_parameters(self) -> None:
        """Does what torch.nn's does (on GPUs) where the parameters are those of a cuDNN layer, else nothing."""
        if self.num_heads == 1 and self.mode != "sLSTM":
            super().flatten_parameters()

    def step(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Output (B, H) and state after one more step with input (B, I), or without B, as forward has them.

        The bits are those of a run over all steps at once, but for rounding where proj_size > 0; dropout acts as there.
        Under no_grad the weights stay packed from step to step, a copy of them, until one is changed.
        :class:`StreamingRNN`, which has no states to hand in and out, takes a fraction of the time.

        Raises
        ------
        TypeError, ValueError, RuntimeError, BackendError
            As forward does; ValueError if bidirectional.
        """
        output, last = step(self, input, hx)
        return output, last[0] if len(last) == 1 else last

    def extra_repr(self) -> str:
        """Arguments that differ from their defaults."""
        heads = f", num_heads={self.num_heads}" if self.num_heads != 1 else ""
        return super().extra_repr() + heads


class LSTM(_Heads, nn.LSTM):
    """h_t = o tanh(c_t), c_t = f c_{t-1} + i g, with i, f, o = sigmoid(.) and g = tanh(.) of W x_t + b + R h_{t-1}.

    A drop-in torch.nn.LSTM. `weight_ih_l{k}` (4 H, I), `weight_hh_l{k}` (4 H, H / num_heads), `bias_ih_l{k}` and
    `bias_hh_l{k}` (4 H), in the order i, f, g, o; with `proj_size` = P > 0 `weight_hr_l{k}` (P, H) too, and h is
    W_hr o tanh(c).

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        As for torch.nn.LSTM. dtype: float32 or float64.
    num_heads : int
        Number of diagonal blocks of R. Divides hidden_size; 1 where proj_size > 0.

    Raises
    ------
    TypeError, ValueError
        For the options that torch.nn.LSTM refuses, and for a num_heads that does not fit.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import LSTM
    >>> lstm = LSTM(5, 8, num_layers=2, batch_first=True)
    >>> y, (h, c) = lstm(torch.randn(3, 10, 5))
    >>> y.shape, h.shape
    (torch.Size([3, 10, 8]), torch.Size([2, 3, 8]))

    References
    ----------
    Hochreiter and Schmidhuber, Long short-term memory, 1997; Gers et al., Learning to forget, 2000 (the gate f);
    Sak et al., arXiv:1402.1128, 2014 (proj_size).
    """

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
        num_heads: int = 1,
    ) -> None:
        nn.LSTM.__init__(
            self,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
        )
        self._set_heads(num_heads)

    def forward(  # type: ignore[override]
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, tuple[Tensor, ...]]:
        """Output and final states (h, c) for input (T, B, I), (B, T, I) if batch_first, (T, I), or a PackedSequence.

        Parameters
        ----------
        input : Tensor or PackedSequence
            float32 or float64 like the parameters, at least one step. Only the valid steps of a PackedSequence run.
        hx : tuple of Tensor, optional
            h (layers * directions, B, P or H) and c (layers * directions, B, H), without B for unbatched input.
            None: zeros.

        Returns
        -------
        output : Tensor or PackedSequence
            The last layer's h at each step, directions side by side.
        (h, c) : tuple of Tensor
            The states after the last step of each row, shaped like hx.

        Raises
        ------
        RuntimeError, ValueError, TypeError
            For a wrong shape, a dtype unlike the parameters', another type of argument: the classes of torch.nn.
        BackendError
            For tensors that are not on the CPU.
        """
        return forward(self, input, hx)


class GRU(_Heads, nn.GRU):
    """h_t = z h_{t-1} + (1 - z) tanh(W_n x_t + b_n + r (R_n h_{t-1} + b_hn)), r and z = sigmoid(W x_t + b + R h_{t-1}).

    A drop-in torch.nn.GRU. `weight_ih_l{k}` (3 H, I), `weight_hh_l{k}` (3 H, H / num_heads), `bias_ih_l{k}` and
    `bias_hh_l{k}` (3 H), in the order r, z, n.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype
        As for torch.nn.GRU. dtype: float32 or float64.
    num_heads : int
        Number of diagonal blocks of R. Divides hidden_size.

    Raises
    ------
    TypeError, ValueError
        For the options that torch.nn.GRU refuses, and for a num_heads that does not divide.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import GRU
    >>> y, h = GRU(5, 8, bidirectional=True, num_heads=2)(torch.randn(10, 3, 5))
    >>> y.shape, h.shape
    (torch.Size([10, 3, 16]), torch.Size([2, 3, 8]))

    References
    ----------
    Cho et al., arXiv:1406.1078, 2014, with the reset gate after the product, as in cuDNN and torch.
    """

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
        num_heads: int = 1,
    ) -> None:
        nn.GRU.__init__(
            self,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
        self._set_heads(num_heads)

    def forward(self, input: Tensor | PackedSequence, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """Output and final state h: arguments and errors as for LSTM, with one Tensor as the state."""
        output, (h,) = forward(self, input, hx)
        return output, h


class RNN(_Heads, nn.RNN):
    """h_t = tanh(W x_t + b + R h_{t-1}), or relu(.) (Elman's network).

    A drop-in torch.nn.RNN. `weight_ih_l{k}` (H, I), `weight_hh_l{k}` (H, H / num_heads), `bias_ih_l{k}`,
    `bias_hh_l{k}` (H).

    Parameters
    ----------
    input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout, bidirectional, device, dtype
        As for torch.nn.RNN. nonlinearity: "tanh" or "relu". dtype: float32 or float64.
    num_heads : int
        Number of diagonal blocks of R. Divides hidden_size.

    Raises
    ------
    TypeError, ValueError
        For the options that torch.nn.RNN refuses, and for a num_heads that does not divide.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import RNN
    >>> y, h = RNN(5, 8, nonlinearity="relu")(torch.randn(10, 5))
    >>> y.shape, h.shape
    (torch.Size([10, 8]), torch.Size([1, 8]))

    References
    ----------
    Elman, Finding structure in time, 1990.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        num_heads: int = 1,
    ) -> None:
        nn.RNN.__init__(
            self,
            input_size,
            hidden_size,
            num_layers,
            nonlinearity,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
        self._set_heads(num_heads)

    def forward(self, input: Tensor | PackedSequence, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """Output and final state h: arguments and errors as for LSTM, with one Tensor as the state."""
        output, (h,) = forward(self, input, hx)
        return output, h


class sLSTM(_Heads):
    """h_t = o c_t / n_t, c_t = f c_{t-1} + i z, n_t = max(f n_{t-1} + i, 1), with exponential gates i and f.

    The gates are z = tanh(a_z), o = sigmoid(a_o), i = exp(a_i - m_t), f = exp(log sigmoid(a_f) + m_{t-1} - m_t) of
    a = W x_t + b + R h_{t-1}, kept in range by m_t = max(a_i, log sigmoid(a_f) + m_{t-1}), or a_i where n_{t-1} = 0.
    Parameters are named, shaped and initialised like LSTM's, in the order i, f, z, o.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, num_heads, device, dtype
        As for LSTM.

    Raises
    ------
    TypeError, ValueError
        For the options that LSTM refuses.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import sLSTM
    >>> y, (h, c, n, m) = sLSTM(5, 8, num_heads=2)(torch.randn(10, 3, 5))
    >>> y.shape, m.shape
    (torch.Size([10, 3, 8]), torch.Size([1, 3, 8]))

    References
    ----------
    Beck et al., xLSTM, arXiv:2405.04517, 2024, equations 8 to 17.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        num_heads: int = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
        self.mode = "sLSTM"
        self._set_heads(num_heads)

    def forward(
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    ) -> tuple[Any, tuple[Tensor, ...]]:
        """Output and final states (h, c, n, m): arguments and errors as for LSTM, with four states of one shape."""
        return forward(self, input, hx)
