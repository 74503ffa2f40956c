"""One time step at a time: y[t], s[t] = layers(x[t], s[t-1]), with everything but the outputs allocated in advance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from ...._backend import BackendError
from ...._check import type_name
from ...._torch.ops import _modes, _trace, contiguous
from .checks import CELLS, check_forward, check_streams, check_weights, checked_states, layers_of
from .step import STREAMS, packed

_NO_MEMORY = "a step needs tensors that have memory, got a fake one"


class StreamingRNN:
    """y[t], s[t] = module(x[t], s[t-1]), one step per call, bitwise equal to one run over the whole sequence.

    For inference: outputs have no gradients, and neither dropout nor autocast is applied. A call allocates only its
    output: the weights are packed once, and again when a step detects that one was replaced or changed in place. (torch
    does not count writes through ``weight.data``, by a fused optimizer or by a collective. A step detects them by
    comparing some elements of each weight; if only a few were written, call ``stream.reset(stream.state)``.) Copies
    continue from the state, as forward would, which rounds if proj_size > 0.

    Parameters
    ----------
    module : LSTM, GRU, RNN or sLSTM
        A module of fastiter.torch.nn or torch.nn, unidirectional, with any number of layers, float32 or float64 (for
        bfloat16 there is ``LSTM.step``).
    batch_size : int, optional
        B, for x (B, I) and y (B, H). None: x (I,) and y (H,).
    state : Tensor or tuple of Tensor, optional
        Initial state, as for the module's forward: (layers, B, H), without B if batch_size is None. None: zeros.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        If it is not such a module, or its weights are neither parameters nor parametrized; for a bidirectional module;
        for a state that its forward refuses; for a step that is traced, or on tensors without memory.
    BackendError
        For parameters that are not on the CPU.

    See Also
    --------
    LSTM, GRU, RNN, sLSTM : The layers that can be run step by step.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import LSTM, StreamingRNN
    >>> lstm, x = LSTM(5, 8, num_layers=2), torch.randn(10, 5)
    >>> stream = StreamingRNN(lstm)
    >>> steps = [stream(x_t) for x_t in x]
    >>> y, (h, c) = lstm(x)
    >>> torch.stack(steps).equal(y), stream.state[1].equal(c)
    (True, True)
    """

    def __init__(self, module: nn.RNNBase, batch_size: int | None = None, state: Any = None) -> None:
        if not isinstance(module, nn.RNNBase) or module.mode not in CELLS:
            raise TypeError(f"StreamingRNN: module must be an LSTM, GRU, RNN or sLSTM, got {type_name(module)}")
        check_forward("StreamingRNN", module)
        check_streams("StreamingRNN", module)
        if batch_size is not None and (not isinstance(batch_size, int) or isinstance(batch_size, bool)):
            raise TypeError(f"StreamingRNN: batch_size must be an int or None, got {type_name(batch_size)}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"StreamingRNN: batch_size must be at least 1, got {batch_size}")
        self.module, self.batch_size = module, batch_size
        self.reset(state)

    def __reduce__(self) -> tuple[Any, ...]:
        # A plain copy would share the memory of this stream.
        return type(self), (self.module, self.batch_size, self.state)

    @torch.no_grad()
    def reset(self, state: Any = None) -> None:
        """Restart from a state, zeros by default, with the module's current weights.

        Parameters
        ----------
        state : Tensor or tuple of Tensor, optional
            A state in the form that the module's forward returns.
        """
        module, cell = self.module, CELLS[self.module.mode]
        layers = layers_of(module, cell)
        weight = layers[0].parameters.w_ih
        if not weight.is_cpu:
            raise BackendError(f"StreamingRNN: module must have its parameters on the CPU, got {weight.device}")
        if weight.dtype not in STREAMS:
            why = "which kernels of one step are for (others have the module's own `step`)"
            raise TypeError(f"StreamingRNN: module must have float32 or float64 parameters, {why}, got {weight.dtype}")
        check_weights("StreamingRNN", module)
        _address(weight)
        first = None if state is None else checked_states(module, cell, state, weight, self.batch_size)
        self._stream = packed(module, cell, layers, self.batch_size or 1, first)
        self._step = self._stream.step
        self._in, self._dtype, rows = module.input_size, weight.dtype, self._rows()
        self._out = (*rows, module.proj_size or module.hidden_size)
        widths = [self._out[-1], *[module.hidden_size] * (len(cell.states) - 1)]
        self._states = [(len(layers), *rows, width) for width in widths]
        self._options, self._bound = module.__dict__, module.__dict__.get("clip_state")

    def _rows(self) -> tuple[int, ...]:
        return () if self.batch_size is None else (self.batch_size,)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the last layer's output (B, H) for one more step x (B, I), without B if batch_size is None."""
        if _modes() or _trace() is not None:
            _refuse_modes()
        if self._options.get("clip_state") is not self._bound:
            self.reset(self.state)
        y: Tensor | None = self._step(x, self.batch_size is not None)
        return self._the_longer_way(x) if y is None else y

    def _the_longer_way(self, x: Tensor) -> Tensor:
        """Return the output after a change of weights, or for an x that is not plain memory; raise for a wrong x."""
        if not self._stream.is_current():
            state = self.state
            dtype = layers_of(self.module, CELLS[self.module.mode])[0].parameters.w_ih.dtype
            self.reset(state.to(dtype) if isinstance(state, Tensor) else tuple([s.to(dtype) for s in state]))
        shape = (*self._rows(), self._in)
        if not isinstance(x, Tensor):
            raise TypeError(f"StreamingRNN: x must be a torch.Tensor, got {type_name(x)}")
        if x.layout != torch.strided:
            raise TypeError(f"StreamingRNN: x must be a dense tensor, got layout {x.layout}")
        if x.shape != shape or x.dtype != self._dtype or not x.is_cpu:
            got = f"{tuple(x.shape)}, {x.dtype} on {x.device}"
            raise ValueError(f"StreamingRNN: x must have shape {shape}, {self._dtype} on the CPU, got {got}")
        x, y = contiguous(x.detach()), _empty(self._out, self._dtype)
        self._stream.step_at(_address(x), y.data_ptr())
        return y

    @property
    def state(self) -> Any:
        """A copy of the state, in the form of the module's forward, from which a stream or forward can continue."""
        parts = [_empty(shape, self._dtype) for shape in self._states]
        self._stream.states(tuple([part.data_ptr() for part in parts]))
        return parts[0] if len(parts) == 1 else tuple(parts)


def _refuse_modes() -> None:
    """Refuse tracing, which would record this step's output as a constant, and fake tensors, which have no memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import get_proxy_mode  # imported late, as it imports much of sympy

    if _trace() is not None or get_proxy_mode() is not None:
        raise RuntimeError(
            "StreamingRNN: a step cannot be traced, as its state is in no graph: trace the module's step"
        )
    if any(isinstance(mode, FakeTensorMode) for mode in _get_current_dispatch_mode_stack()):
        raise RuntimeError(f"StreamingRNN: {_NO_MEMORY}")


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    y = torch.empty(shape, dtype=dtype, device="cpu")
    _address(y)
    return y


def _address(x: Tensor) -> int:
    """Return the address of x; raise for a fake tensor, which has none."""
    from torch._subclasses.fake_tensor import is_fake

    if type(x) is not Tensor and is_fake(x):
        raise RuntimeError(f"StreamingRNN: {_NO_MEMORY}")
    return x.data_ptr()
