"""LSTM, GRU, RNN: torch.nn's modules with a forward pass on fastiter's kernels. sLSTM: a module in the same style.

Construction, parameters, initialisation, checkpoints and options are inherited from torch.nn. The differences are:

* `num_heads`: the recurrent weights are block-diagonal, `weight_hh` of shape (G * H, H / num_heads).
* `clip_state`, `clip_grad` and `checkpoint`, and `reset`, `lengths` and `cu_seqlens` of forward work as in
  fastiter.torch.lstm.
* Dtypes are float32, float64 and bfloat16, on CUDA devices also float16. Autocast works as for torch's modules.
* These arguments of forward are keyword-only; `*unnamed` accepts their defaults by position, from torch.onnx.export.
* torch.compile refuses every subclass of torch.nn.LSTM, GRU and RNN (a graph break, and an error with `fullgraph=True`)
  unless `torch._dynamo.config.allow_rnn = True`; with it these compile into one graph. sLSTM always does.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.nn import GRU as _GRU  # bound here, as users may assign the classes below to torch.nn
from torch.nn import LSTM as _LSTM
from torch.nn import RNN as _RNN
from torch.nn.utils.rnn import PackedSequence

from ...._docs import documented
from ...._torch.modules.calls import RecurrentCall
from ...._torch.modules.layer_docs import FORWARD, ONE_STATE, documented_layer
from ..run import Integers
from .base import Recurrent, refuse_projection
from .stack import forward


@documented_layer()
class LSTM(Recurrent, _LSTM):
    """h_t = o tanh(c_t), c_t = f c_{t-1} + i g, with i, f, o = sigmoid(.) and g = tanh(.) of W x_t + b + R h_{t-1}.

    A drop-in torch.nn.LSTM. `weight_ih_l{k}` (4 H, I), `weight_hh_l{k}` (4 H, H / num_heads), `bias_ih_l{k}` and
    `bias_hh_l{k}` (4 H), in the order i, f, g, o; with `proj_size` = P > 0 also `weight_hr_l{k}` (P, H), and h is
    W_hr o tanh(c).

    Parameters
    ----------
    %(parameters)s

    Raises
    ------
    TypeError, ValueError
        For options that torch.nn.LSTM refuses, and for a num_heads that does not fit.

    See Also
    --------
    GRU, RNN, sLSTM : The other cells.
    StreamingRNN : Runs the layer step by step.
    fastiter.torch.replace : Replaces the layers of a model.
    fastiter.torch.lstm : The recurrence as a function.

    References
    ----------
    Hochreiter and Schmidhuber, Long short-term memory, 1997; Gers et al., Learning to forget, 2000 (the gate f);
    Sak et al., arXiv:1402.1128, 2014 (proj_size).

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import LSTM
    >>> lstm = LSTM(5, 8, num_layers=2, batch_first=True)
    >>> y, (h, c) = lstm(torch.randn(3, 10, 5))
    >>> y.shape, h.shape
    (torch.Size([3, 10, 8]), torch.Size([2, 3, 8]))
    """

    __call__: RecurrentCall[tuple[Tensor, Tensor]]

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
        clip_state: float | None = None,
        clip_grad: float | None = None,
        checkpoint: int | None = None,
    ) -> None:
        _LSTM.__init__(
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
        self._set_options(num_heads, clip_state, clip_grad, checkpoint)

    @documented(FORWARD)
    def forward(  # type: ignore[override]
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        *unnamed: None,
        reset: Tensor | None = None,
        lengths: Integers | None = None,
        cu_seqlens: Integers | None = None,
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Return output and states (h, c) for input (T, B, I), (B, T, I) if batch_first, (T, I), or a PackedSequence.

        Parameters
        ----------
        %(input)s
        hx : tuple of Tensor, optional
            h (layers * directions, B, P or H) and c (layers * directions, B, H), without B for unbatched input.
            None: zeros. With bfloat16, c is returned in float32 if it is given in float32.
        %(steps)s

        Returns
        -------
        %(output)s
        (h, c) : tuple of Tensor
            The states after the last step of each row, shaped like hx.

        %(errors)s
        """
        return forward(self, input, hx, reset, lengths, cu_seqlens, unnamed)


@documented_layer(proj_size="proj_size_refused")
class GRU(Recurrent, _GRU):
    """h_t = z h_{t-1} + (1 - z) tanh(W_n x_t + b_n + r (R_n h_{t-1} + b_hn)), r and z = sigmoid(W x_t + b + R h_{t-1}).

    A drop-in torch.nn.GRU. `weight_ih_l{k}` (3 H, I), `weight_hh_l{k}` (3 H, H / num_heads), `bias_ih_l{k}` and
    `bias_hh_l{k}` (3 H), in the order r, z, n.

    Parameters
    ----------
    %(parameters)s

    Raises
    ------
    TypeError, ValueError
        For options that torch.nn.GRU refuses, including proj_size, and for a num_heads that does not divide.

    See Also
    --------
    LSTM, RNN, sLSTM : The other cells.
    ParaGRU : A GRU with diagonal recurrent weights.
    fastiter.torch.replace : Replaces the layers of a model.
    fastiter.torch.gru : The recurrence as a function.

    References
    ----------
    Cho et al., arXiv:1406.1078, 2014, with the reset gate after the product, as in cuDNN and torch.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import GRU
    >>> y, h = GRU(5, 8, bidirectional=True, num_heads=2)(torch.randn(10, 3, 5))
    >>> y.shape, h.shape
    (torch.Size([10, 3, 16]), torch.Size([2, 3, 8]))
    """

    __call__: RecurrentCall[Tensor]

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
        clip_state: float | None = None,
        clip_grad: float | None = None,
        checkpoint: int | None = None,
        proj_size: None = None,
    ) -> None:
        refuse_projection(self, proj_size)
        _GRU.__init__(
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
        self._set_options(num_heads, clip_state, clip_grad, checkpoint)

    @documented(FORWARD)
    @documented(ONE_STATE)
    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *unnamed: None,
        reset: Tensor | None = None,
        lengths: Integers | None = None,
        cu_seqlens: Integers | None = None,
    ) -> tuple[Any, Tensor]:
        """Return output and final state h for input (T, B, I), (B, T, I) if batch_first, (T, I), or a PackedSequence.

        %(one_state)s
        """
        output, (h,) = forward(self, input, hx, reset, lengths, cu_seqlens, unnamed)
        return output, h


@documented_layer(proj_size="proj_size_refused")
class RNN(Recurrent, _RNN):
    """h_t = tanh(W x_t + b + R h_{t-1}), or relu(.) (Elman network).

    A drop-in torch.nn.RNN. `weight_ih_l{k}` (H, I), `weight_hh_l{k}` (H, H / num_heads), `bias_ih_l{k}`,
    `bias_hh_l{k}` (H).

    Parameters
    ----------
    %(parameters)s

    Raises
    ------
    TypeError, ValueError
        For options that torch.nn.RNN refuses, including proj_size, and for a num_heads that does not divide.

    See Also
    --------
    LSTM, GRU, sLSTM : The other cells.
    LinearRNN : A recurrence without nonlinearity.
    fastiter.torch.elman : The recurrence as a function.

    References
    ----------
    Elman, Finding structure in time, 1990.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import RNN
    >>> y, h = RNN(5, 8, nonlinearity="relu")(torch.randn(10, 5))
    >>> y.shape, h.shape
    (torch.Size([10, 8]), torch.Size([1, 8]))
    """

    __call__: RecurrentCall[Tensor]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        num_heads: int = 1,
        clip_state: float | None = None,
        clip_grad: float | None = None,
        checkpoint: int | None = None,
        proj_size: None = None,
    ) -> None:
        refuse_projection(self, proj_size)
        _RNN.__init__(
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
        self._set_options(num_heads, clip_state, clip_grad, checkpoint)

    @documented(FORWARD)
    @documented(ONE_STATE)
    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *unnamed: None,
        reset: Tensor | None = None,
        lengths: Integers | None = None,
        cu_seqlens: Integers | None = None,
    ) -> tuple[Any, Tensor]:
        """Return output and final state h for input (T, B, I), (B, T, I) if batch_first, (T, I), or a PackedSequence.

        %(one_state)s
        """
        output, (h,) = forward(self, input, hx, reset, lengths, cu_seqlens, unnamed)
        return output, h


@documented_layer(proj_size="proj_size_refused")
class sLSTM(Recurrent):
    """h_t = o c_t / n_t, c_t = f c_{t-1} + i z, n_t = max(f n_{t-1} + i, 1), with exponential gates i and f.

    The gates are z = tanh(a_z), o = sigmoid(a_o), i = exp(a_i - m_t), f = exp(log sigmoid(a_f) + m_{t-1} - m_t) of
    a = W x_t + b + R h_{t-1}, kept in range by m_t = max(a_i, log sigmoid(a_f) + m_{t-1}), or a_i where n_{t-1} = 0.
    Parameters are named, shaped and initialised like LSTM's, in the order i, f, z, o.

    Parameters
    ----------
    %(parameters)s

    Raises
    ------
    TypeError, ValueError
        For options that LSTM refuses, and for a proj_size.

    See Also
    --------
    sLSTMBlock : The block of xLSTM that contains this layer.
    LSTM, GRU, RNN : The other cells.
    fastiter.torch.slstm : The recurrence as a function.

    References
    ----------
    Beck et al., xLSTM, arXiv:2405.04517, 2024, equations 8 to 17.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import sLSTM
    >>> y, (h, c, n, m) = sLSTM(5, 8, num_heads=2)(torch.randn(10, 3, 5))
    >>> y.shape, m.shape
    (torch.Size([10, 3, 8]), torch.Size([1, 3, 8]))
    """

    __call__: RecurrentCall[tuple[Tensor, Tensor, Tensor, Tensor]]

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
        clip_state: float | None = None,
        clip_grad: float | None = None,
        checkpoint: int | None = None,
        proj_size: None = None,
    ) -> None:
        refuse_projection(self, proj_size)
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
        self._set_options(num_heads, clip_state, clip_grad, checkpoint)

    @documented(FORWARD)
    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
        *unnamed: None,
        reset: Tensor | None = None,
        lengths: Integers | None = None,
        cu_seqlens: Integers | None = None,
    ) -> tuple[Any, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Return output and final states (h, c, n, m) for input (T, B, I), (B, T, I) if batch_first, or (T, I).

        With bfloat16, c, n and m are float32, as n counts steps, and in bfloat16 the count would stop at 256.

        Parameters
        ----------
        %(input)s
        hx : tuple of Tensor, optional
            h, c, n and m, each (layers * directions, B, H), without B for unbatched input. None: zeros.
        %(steps)s

        Returns
        -------
        %(output)s
        (h, c, n, m) : tuple of Tensor
            The states after the last step of each row, shaped like hx.

        %(errors)s
        """
        return forward(self, input, hx, reset, lengths, cu_seqlens, unnamed)
