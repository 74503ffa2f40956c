"""Inputs of causal convolutions, for the tests on arrays and on tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastiter.ssm import reference, reference_conv
from tests.support.cases import Array

#: (rows, channels, steps, taps): no steps, fewer steps than taps, one vector and its neighbours, several tiles in lanes
#: and in rows, several panels of channels, more taps than a vector
SIZES = [
    (1, 1, 1, 1),
    (2, 3, 2, 4),
    (2, 16, 16, 2),
    (1, 17, 33, 3),
    (2, 15, 31, 4),
    (1, 130, 66, 4),
    (1, 3, 2100, 4),
    (1, 530, 20, 3),
    (2, 18, 600, 5),
    (1, 5, 70, 40),
    (2, 4, 0, 3),
    (0, 4, 5, 3),
    (2, 0, 5, 3),
]


class ConvInputs(NamedTuple):
    """The arrays of causal_conv1d, by name; None: not given."""

    x: Array
    weight: Array
    bias: Array | None
    state: Array | None

    def arguments(self) -> dict[str, Any]:
        """The arguments that are not None."""
        return {name: y for name, y in self._asdict().items() if y is not None}


def conv_inputs(
    batch: int,
    channels: int,
    time: int,
    width: int,
    dtype: npt.DTypeLike = np.float64,
    *,
    order: str = "time",
    without: tuple[str, ...] = (),
    sequences: int | None = None,
    seed: int = 0,
) -> ConvInputs:
    """order: the contiguous axis of x, "time" or "channels"."""
    rng = np.random.default_rng(seed)
    count = batch if sequences is None else sequences
    shapes = ((batch, channels, time), (channels, width), (channels,), (count, channels, width - 1))
    made = ConvInputs(*[rng.standard_normal(shape).astype(dtype) for shape in shapes])
    if order == "channels":
        made = made._replace(x=channels_last(made.x))
    return made._replace(**dict.fromkeys(without))


def channels_last(x: Array) -> Array:
    """The same numbers with channels contiguous."""
    return np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)


def _wide(inputs: ConvInputs, options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the specification, in float64."""
    given = {name: y.astype(np.float64) for name, y in inputs.arguments().items()}
    cut = reference.Cut(*(None if options.get(n) is None else np.asarray(options[n]) for n in reference.Cut._fields))
    return {**given, "activation": "activation" in options, "seq_idx": options.get("seq_idx"), "cut": cut}


def specified(inputs: ConvInputs, **options: Any) -> tuple[Array, Array]:
    """out and the final states of the specification, computed in float64."""
    return reference_conv.causal_conv1d(**_wide(inputs, options))


def specified_gradients(
    inputs: ConvInputs, dout: Array | None, dlast: Array | None, **options: Any
) -> reference_conv.ConvGradients:
    """The gradients of the specification, computed in float64."""
    cotangents = {"dout": dout, "dlast": dlast}
    given = {name: None if y is None else y.astype(np.float64) for name, y in cotangents.items()}
    return reference_conv.backward(**_wide(inputs, options), **given)


def some_labels(batch: int, time: int) -> Array:
    """seq_idx with short and long sequences, padding at the end, and a label that recurs after another one."""
    labels = np.cumsum(np.random.default_rng(3).random((batch, time)) < 0.1, 1)
    labels[:, time // 2 : time // 2 + 2] = 0
    labels[:, time - time // 5 :] = -1
    return labels
