"""Causal convolutions with the signatures of causal_conv1d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...._torch.autograd import names_errors
from ..._conv_shapes import Activation
from .. import causal_conv
from ..checks import Integers


@names_errors
def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Integers | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: Activation | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """act(bias + sum over j of weight[j] x[t - W + 1 + j]) over (B, D, T): causal_conv1d's function of this name.

    ``final_states_out`` (B, D, W - 1) is used only with ``return_final_states``: it is then filled and returned.

    Parameters
    ----------
    x : Tensor (B, D, T), float32, float64, float16 or bfloat16
        Inputs.
    weight : Tensor (D, W)
        Taps of each channel, the last one for the current step.
    bias : Tensor (D,), optional
        Added to the sums.
    seq_idx : integers (B, T), optional
        The index of each step's sequence: inputs of other sequences count as 0.
    initial_states : Tensor (B, D, W - 1), optional
        The inputs before the first steps; zero by default.
    return_final_states : bool
        Also return the last W - 1 inputs.
    final_states_out : Tensor (B, D, W - 1), optional
        Where they are written.
    activation : {None, "silu", "swish"}
        The function act.

    Returns
    -------
    out : Tensor (B, D, T)
        The outputs, in the dtype of x. Differentiable once in x, weight, bias and initial_states.
    final_states : Tensor (B, D, W - 1)
        The last inputs; only with ``return_final_states``.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.

    See Also
    --------
    fastiter.torch.ssm.causal_conv1d : The underlying function, with lengths and packed sequences.
    causal_conv1d_update : Convolves one step at a time.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.causal_conv1d import causal_conv1d_fn
    >>> x = torch.arange(1.0, 6).view(1, 1, 5)
    >>> causal_conv1d_fn(x, torch.tensor([[0.5, 0.5]])).flatten()  # means of two steps
    tensor([0.5000, 1.5000, 2.5000, 3.5000, 4.5000])
    """
    options: dict[str, Any] = {
        "seq_idx": seq_idx,
        "state": initial_states,
        "return_last_state": return_final_states,
    }
    result = causal_conv.causal_conv1d(x, weight, bias, **options, activation=activation)
    if isinstance(result, Tensor) or final_states_out is None:
        return result
    out, last = result
    if not isinstance(final_states_out, Tensor) or final_states_out.shape != last.shape:
        got = tuple(final_states_out.shape) if isinstance(final_states_out, Tensor) else type(final_states_out).__name__
        raise ValueError(f"causal_conv1d_fn: final_states_out must have shape {tuple(last.shape)}, got {got}")
    return out, final_states_out.copy_(last)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    cache_seqlens: Integers | None = None,
    conv_state_indices: Integers | None = None,
) -> Tensor:
    """Convolve the next steps and update the state in place: causal_conv1d's function of this name.

    The result has no gradient, even if an argument requires one.

    Parameters
    ----------
    x : Tensor (B, D) or (B, D, L), float32, float64, float16 or bfloat16
        The next step, or the next L steps.
    conv_state : Tensor (B, D, N), N >= W - 1
        The last N inputs, updated in place.
    weight : Tensor (D, W)
        Taps of each channel, the last one for the current step.
    bias : Tensor (D,), optional
        Added to the sums.
    activation : {None, "silu", "swish"}
        The function of the sums.
    cache_seqlens : integers (B,), optional
        Number of steps so far. The state is then a ring buffer, and the next input is written at cache_seqlens % N.
    conv_state_indices : integers (B,), optional
        The row of ``conv_state`` for each row of x; a negative index marks padding, whose output is 0.

    Returns
    -------
    Tensor (B, D) or (B, D, L)
        The outputs of these steps.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.

    See Also
    --------
    fastiter.torch.ssm.causal_conv1d_update : The underlying function, which refuses gradients.
    causal_conv1d_fn : Convolves whole sequences.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.causal_conv1d import causal_conv1d_update
    >>> state, weight = torch.zeros(1, 1, 1), torch.tensor([[0.5, 0.5]])
    >>> [causal_conv1d_update(torch.tensor([[x]]), state, weight).item() for x in (1.0, 2.0, 3.0)]
    [0.5, 1.5, 2.5]
    """
    with torch.no_grad():
        tensors = (x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices)
        return causal_conv.causal_conv1d_update(*tensors)


causal_conv1d_varlen_states = causal_conv.causal_conv1d_varlen_states
