"""Features of the modules LSTM, GRU, RNN and sLSTM that torch.nn's lack: heads, options, single steps."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor, nn

from .checks import OPTIONS, checked_options, module_name
from .step import step
from .torch_layer import take_qconfig


def refuse_projection(module: nn.Module, proj_size: object) -> None:
    """Refuse proj_size for cells other than LSTM, with the exception class of torch.nn."""
    if proj_size is not None:
        name = type(module).__name__
        raise ValueError(f"{name}: proj_size is an option of LSTM, and must not be given here, got {proj_size!r}")


class Recurrent(nn.RNNBase):
    """Block-diagonal recurrent weights: head n of h depends on the previous h only through head n."""

    # Class attributes, so that a torch.nn module whose __class__ is set to this one, or an old pickle, has one head.
    num_heads: int = 1
    clip_state: float | None = None
    clip_grad: float | None = None
    checkpoint: int | None = None

    def _set_options(
        self, num_heads: int, clip_state: float | None, clip_grad: float | None, checkpoint: int | None
    ) -> None:
        for option, value in zip(OPTIONS, (clip_state, clip_grad, checkpoint), strict=True):
            if value is not None:
                setattr(self, option, value)
        checked_options(self)
        self._set_heads(num_heads)

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
        """Call torch.nn's flatten_parameters if the parameters have cuDNN's layout; otherwise do nothing."""
        if self.num_heads == 1 and self.mode != "sLSTM":
            super().flatten_parameters()

    def step(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Return output and state after one more step, in the form of forward.

        Bitwise equal to a run over all steps at once, except for rounding if proj_size > 0; dropout is applied as in
        forward. For this, a bfloat16 LSTM that starts from None has its c in float32. Autocast rounds the states
        between steps. Under no_grad a packed copy of the weights is kept between steps until a weight changes, which is
        detected as in :class:`StreamingRNN`. That class, which passes no states in and out, takes a fraction of the
        time.

        Parameters
        ----------
        input : Tensor (B, I) or (I,)
            The input of the step.
        hx : Tensor or tuple of Tensor, optional
            The state, in the form of forward's hx; zeros by default.

        Returns
        -------
        output : Tensor (B, H) or (H,)
            The last layer's h.
        state : Tensor or tuple of Tensor
            The state after the step.

        Raises
        ------
        TypeError, ValueError, RuntimeError, BackendError
            As for forward; ValueError if bidirectional.
        """
        output, last = step(self, input, hx)
        return output, last[0] if len(last) == 1 else last

    @property
    def qconfig(self) -> Any:
        """The quantization configuration of torch.ao.quantization; setting it turns this layer into torch.nn's."""
        if "qconfig" not in self.__dict__:
            raise AttributeError("qconfig")
        return self.__dict__["qconfig"]

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        self.__dict__["qconfig"] = value
        take_qconfig(self, value)

    @qconfig.deleter
    def qconfig(self) -> None:
        del self.__dict__["qconfig"]

    def __prepare_scriptable__(self) -> NoReturn:
        instead = "fastiter.torch.restore(model, built=True) makes layers torch's, and torch.export exports these"
        raise RuntimeError(f"{module_name(self)}: torch.jit.script cannot compile this layer; {instead}")

    def extra_repr(self) -> str:
        """Return the arguments that differ from their defaults."""
        more = [("num_heads", self.num_heads)] if self.num_heads != 1 else []
        more += [(option, value) for option in OPTIONS if (value := getattr(self, option)) is not None]
        return super().extra_repr() + "".join(f", {option}={value}" for option, value in more)
