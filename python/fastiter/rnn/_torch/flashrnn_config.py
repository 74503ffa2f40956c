"""FlashRNN's options under the names of its FlashRNNConfig; unsupported values are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch

from ..._check import check_choice, fits_float, type_name
from .._cells import CELLS, Cell

Name: TypeAlias = Literal["lstm", "gru", "elman", "slstm"]
Dtype: TypeAlias = Literal["float32", "float64", "bfloat16", "float16"]
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Counts(NamedTuple):
    """Numbers of gates of R, of Wx, of the cell's input (R and Wx combined) and of b, and the number of states."""

    gates_r: int
    gates_w: int
    gates_i: int
    gates_t: int
    states: int


#: The cells by FlashRNN's names, and their counts. Where the parts of a gate are not added, each counts.
CELL_OF: dict[str, Cell] = {name: CELLS["elman_tanh" if name == "elman" else name] for name in get_args(Name)}
COUNTS = {
    name: Counts(cell.gates, cell.gates, cell.gates + cell.separates, cell.gates + cell.separates, len(cell.states))
    for name, cell in CELL_OF.items()
}
ANYWHERE, ON_CPU, ON_GPU = ("vanilla", "vanilla_fwbw"), ("cpu",), ("cuda", "cuda_fused", "triton_fused")


@dataclass
class FlashRNNConfig:
    """The options of :func:`flashrnn`, under FlashRNN's names and in its order.

    Checked on construction and on use. Unsupported values are refused: no option is silently ignored.

    Parameters
    ----------
    backend : str, optional
        One of FlashRNN's names, or "cpu". The tensors' device selects the kernels; a name that contradicts it is
        refused: "cpu" on a GPU; "cuda", "cuda_fused" and "triton_fused" on the CPU.
    function : {"lstm", "gru", "elman", "slstm"}
        The cell.
    gradient_recurrent_cut : bool
        No gradient passes through R to the previous step. Not for the GRU.
    gradient_recurrent_clipval : float, optional
        The gradient that h receives from the next step is clamped to plus and minus this.
    forward_clipval : float, optional
        h is clamped to plus and minus this at every step.
    constants : dict, optional
        None or empty: the four cells have none.
    simple_agg : bool, optional
        Determined by the function; another value is refused.
    hidden_dim, num_heads, head_dim : int
        -1: taken from Wx; otherwise Wx must match.
    num_states, num_gates_r, num_gates_w, num_gates_i, num_gates_t : int, optional
        Determined by the function; another value is refused.
    batch_size : int
        FlashRNN compiles for this size; the kernels here accept any batch.
    input_shape, output_shape, recurrent_shape, bias_shape : str
        The axes of Wx, of the states, of R and of b in any order: B batch, T time, G gates, H heads, D width, P width
        of the previous h, S states.
    dtype : {"float32", "float64", "bfloat16", "float16"}, optional
        Dtype of the inputs and results; by default the dtype of Wx. "float16" needs a GPU.
    dtype_acc : {"float32"}, optional
        Dtype of the accumulators; for float64 inputs it is float64.
    dtype_b, dtype_r, dtype_w, dtype_g : str, optional
        None, or the same as dtype: all tensors and the gradients of the gates have one dtype.
    dtype_s : str, optional
        Dtype of the initial and returned states, to which they are rounded after each step: None or dtype; on the CPU
        also "float32" with the dtype "bfloat16", where only h is rounded (to bfloat16) and c, n and m stay float32.
    dtype_a : {"float32"}, optional
        Like dtype_acc.
    enable_automatic_mixed_precision : bool
        Inputs of other dtypes are converted to `dtype` (states to `dtype_s`). If False, they are refused, and autocast
        is ignored.
    trainable_r, trainable_b : bool or sequence of bool
        Must be True: requires_grad decides which tensors have gradients.
    initial_val : float or sequence of float
        Initial value of all states, or one value per state, if no states are given.

    Raises
    ------
    TypeError, ValueError
        For an option of a wrong type; for a value that is unknown or not supported here.

    See Also
    --------
    flashrnn : The function that takes this configuration.
    fastiter.torch.lstm : The same recurrences by this package's names.

    Examples
    --------
    >>> from fastiter.torch import FlashRNNConfig
    >>> FlashRNNConfig(function="gru", input_shape="TBGHD").num_gates_t
    4
    """

    backend: str | None = None
    function: Name = "lstm"
    gradient_recurrent_cut: bool = False
    gradient_recurrent_clipval: float | None = None
    forward_clipval: float | None = None
    constants: dict[str, float] | None = None
    simple_agg: bool | None = None
    hidden_dim: int = -1
    num_heads: int = -1
    head_dim: int = -1
    num_states: int | None = None
    num_gates_r: int | None = None
    num_gates_w: int | None = None
    num_gates_i: int | None = None
    num_gates_t: int | None = None
    batch_size: int = 8
    input_shape: str = "BTGHD"
    output_shape: str = "SBTHD"
    recurrent_shape: str = "GHDP"
    bias_shape: str = "GHD"
    dtype: Dtype | None = None
    dtype_acc: Literal["float32"] | None = "float32"
    dtype_b: str | None = None
    dtype_r: str | None = None
    dtype_w: str | None = None
    dtype_g: str | None = None
    dtype_s: str | None = None
    dtype_a: Literal["float32"] | None = None
    enable_automatic_mixed_precision: bool = True
    trainable_r: bool | Sequence[bool] = True
    trainable_b: bool | Sequence[bool] = True
    initial_val: float | Sequence[float] = 0.0

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Check all options, which may have changed since construction, and derive those not given.

        Raises
        ------
        TypeError, ValueError
            If a field has a wrong type, or a value that FlashRNN or the cell does not allow.
        """
        _choice("function", self.function, get_args(Name))
        if self.backend is not None:
            _choice("backend", self.backend, (*ANYWHERE, *ON_CPU, *ON_GPU))
        self._check_gradients()
        self._set_counts()
        self._set_widths()
        for name in ("input_shape", "output_shape", "recurrent_shape", "bias_shape"):
            _check_letters(name, getattr(self, name), type(self).__dict__[name])
        self._check_dtypes()
        self._check_initial()

    def _check_gradients(self) -> None:
        for name in ("gradient_recurrent_cut", "enable_automatic_mixed_precision"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"flashrnn: {name} must be a bool, got {type_name(getattr(self, name))}")
        for name in ("gradient_recurrent_clipval", "forward_clipval"):
            value = getattr(self, name)
            if value is None:
                continue
            _check_fits(name, value)
            if not (_is_number(value) and value > 0):
                raise ValueError(f"flashrnn: {name} must be None or a positive number, got {value!r}")
        if self.gradient_recurrent_cut and CELL_OF[self.function].separates:
            raise ValueError("flashrnn: gradient_recurrent_cut must be False for the function gru, got True")
        if self.constants:
            raise ValueError(f"flashrnn: constants must be None or empty, as the cells have none, got {self.constants}")
        for name in ("trainable_r", "trainable_b"):
            value = getattr(self, name)
            each = value if isinstance(value, (list, tuple)) else (value,)
            if not all(isinstance(flag, bool) for flag in each):
                raise TypeError(f"flashrnn: {name} must be a bool, or a list or tuple of bool, got {type_name(value)}")
            if not each or not all(each):
                reason = "as requires_grad says what has gradients"
                raise ValueError(f"flashrnn: {name} must be True, {reason}, got {value}")

    def _set_counts(self) -> None:
        """Set the function's numbers of gates and states and ``simple_agg``; refuse given values that differ."""
        counts = COUNTS[self.function]
        known: dict[str, Any] = {"simple_agg": not CELL_OF[self.function].separates, "num_states": counts.states}
        known |= {f"num_{name}": count for name, count in counts._asdict().items() if name.startswith("gates")}
        for name, right in known.items():
            value = getattr(self, name)
            if value is not None and type(value) is not type(right):
                raise TypeError(
                    f"flashrnn: {name} must be None or of type {type(right).__name__}, got {type_name(value)}"
                )
            if value not in (None, right):
                raise ValueError(f"flashrnn: {name} must be {right} for the function {self.function}, got {value!r}")
            if value is None:
                setattr(self, name, right)

    def _set_widths(self) -> None:
        for name in ("hidden_dim", "num_heads", "head_dim", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"flashrnn: {name} must be an int, got {type_name(value)}")
            if value < 1 and (value != -1 or name == "batch_size"):
                expected = "at least 1" if name == "batch_size" else "at least 1, or -1 for that of Wx"
                raise ValueError(f"flashrnn: {name} must be {expected}, got {value}")
        hidden, heads, width = self.hidden_dim, self.num_heads, self.head_dim
        if hidden > 0 and heads > 0 and width <= 0:
            self.head_dim = hidden // heads
        elif hidden > 0 and width > 0 and heads <= 0:
            self.num_heads = hidden // width
        elif hidden <= 0 < min(heads, width):
            self.hidden_dim = heads * width
        sizes = (self.hidden_dim, self.num_heads, self.head_dim)
        if -1 not in sizes and self.hidden_dim != self.num_heads * self.head_dim:
            expected = f"num_heads * head_dim = {self.num_heads} * {self.head_dim}"
            raise ValueError(f"flashrnn: hidden_dim must be {expected}, got {self.hidden_dim}")

    def _check_dtypes(self) -> None:
        if self.dtype is not None:
            _choice("dtype", self.dtype, tuple(DTYPES))
        sums = "float64" if self.dtype == "float64" else "float32"
        for name in ("dtype_acc", "dtype_a"):
            if getattr(self, name) not in (None, "float32", sums):
                raise ValueError(f"flashrnn: {name} must be {sums!r}, got {getattr(self, name)!r}")
        for name in ("dtype_b", "dtype_r", "dtype_w", "dtype_g", "dtype_s"):
            value = getattr(self, name)
            if value in (None, self.dtype) or (name == "dtype_s" and (self.dtype, value) == ("bfloat16", "float32")):
                continue
            expected = f"None or dtype = {self.dtype!r}, which is that of all tensors"
            raise ValueError(f"flashrnn: {name} must be {expected}, got {value!r}")

    def _check_initial(self) -> None:
        value, states = self.initial_val, COUNTS[self.function].states
        _check_fits("initial_val", value)
        if _is_number(value):
            return
        if not isinstance(value, (list, tuple)) or not all(map(_is_number, value)):
            raise TypeError(f"flashrnn: initial_val must be a number or one for each state, got {type_name(value)}")
        if len(value) != states:
            raise ValueError(f"flashrnn: initial_val must have {states} numbers, one for each state, got {len(value)}")

    def initial_values(self) -> tuple[float, ...]:
        """Return the initial value of each state.

        Returns
        -------
        tuple of float
            One number for each state of the function.
        """
        value = self.initial_val
        return (float(value),) * COUNTS[self.function].states if isinstance(value, (int, float)) else tuple(value)


def checked(config: object, function: Name, backend: str | None, dtype: Dtype | None) -> FlashRNNConfig:
    """Return the configuration of a call. FlashRNN ignores arguments given with a config; here they must agree."""
    if config is None:
        return FlashRNNConfig(backend, function, dtype=dtype, enable_automatic_mixed_precision=False)
    if not isinstance(config, FlashRNNConfig):
        raise TypeError(f"flashrnn: config must be a FlashRNNConfig, got {type_name(config)}")
    config.check()
    for name, value, default in (("function", function, "lstm"), ("backend", backend, None), ("dtype", dtype, None)):
        if value not in (default, getattr(config, name)):
            expected = f"{getattr(config, name)!r} like that of config"
            raise ValueError(f"flashrnn: {name} must be {expected}, got {value!r}")
    return config


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_fits(name: str, value: object) -> None:
    numbers = value if isinstance(value, (list, tuple)) else (value,)
    if any(isinstance(x, int) and not fits_float(x) for x in numbers):
        raise ValueError(f"flashrnn: {name} must be what a float can hold, got an int with more digits")


def _choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    check_choice("flashrnn", name, value, choices)


def _check_letters(name: str, value: object, letters: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"flashrnn: {name} must be a str, got {type_name(value)}")
    if sorted(value) != sorted(letters):
        raise ValueError(f"flashrnn: {name} must have the letters of {letters!r} in some order, got {value!r}")
