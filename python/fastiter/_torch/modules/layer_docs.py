"""Parts of the docstrings of modules: parameters that they have in common with torch.nn's modules and each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..._docs import documented_by

F = TypeVar("F", bound=Callable[..., Any])

_PARTS = {
    "input_size": """
        input_size : int
            I, the number of features of x.
        """,
    "hidden_size": """
        hidden_size : int
            H, the number of features of h.
        """,
    "num_layers": """
        num_layers : int
            The number of layers, each of which feeds the next.
        """,
    "num_heads": """
        num_heads : int
            The number of diagonal blocks of R, a divisor of hidden_size.
        """,
    "num_heads_of_input": """
        num_heads : int
            The number of diagonal blocks of the input projection: head n of x only feeds head n of h. It divides both
            sizes.
        """,
    "num_heads_of_state": """
        num_heads : int
            N, a divisor of hidden_size.
        """,
    "nonlinearity": """
        nonlinearity : {"tanh", "relu"}
            The function of the pre-activation.
        """,
    "bias": """
        bias : bool
            Whether the sums have a bias.
        """,
    "batch_first": """
        batch_first : bool
            Batches are (B, T, .). As in torch.nn they are (T, B, .) by default.
        """,
    "dropout": """
        dropout : float
            The probability with which an output of a layer other than the last is dropped in training.
        """,
    "bidirectional": """
        bidirectional : bool
            Also run from the last step to the first, with separate weights; the output has 2 H features.
        """,
    "proj_size": """
        proj_size : int
            P, the number of features to which h is projected; 0 for no projection.
        """,
    "proj_size_refused": """
        proj_size : None
            Refused, as torch.nn has projections only for the LSTM.
        """,
    "proj_size_zero": """
        proj_size : int
            Must be 0, as there is no projection.
        """,
    "device": """
        device : torch.device, optional
            The device of the parameters.
        """,
    "dtype": """
        dtype : torch.dtype, optional
            float32, float64 or bfloat16; on CUDA devices also float16.
        """,
    "dtype_exact": """
        dtype : torch.dtype, optional
            float32 or float64.
        """,
    "dtype_mixed": """
        dtype : torch.dtype, optional
            float32 or float64. Under autocast the projections run in its dtype, the recurrence in the parameters'.
        """,
    "dtype_own": """
        dtype : torch.dtype, optional
            float32 or float64. Under autocast the layer computes in the dtype of the parameters.
        """,
    "dtype_quantized": """
        dtype : torch.dtype, optional
            The dtype of the parameters.
        """,
    "clip_state": """
        clip_state : float, optional
            The bound of the magnitude of h after each step, or of o tanh(c) if h is projected.
        """,
    "clip_grad": """
        clip_grad : float, optional
            The bound of the magnitude of the gradient that a step passes to the previous h; 0 cuts that gradient.
        """,
    "checkpoint": """
        checkpoint : int, optional
            Save only the states of every ``checkpoint``-th step for the backward pass, which recomputes the gates bit
            for bit, instead of the states and gates of all steps. Not with cu_seqlens.
        """,
    "method": """
        method : {"auto", "sequential", "newton"}
            The solver of the steps, see :func:`fastiter.paragru`; "auto" is the fused loop.
        """,
    "plan": """
        plan : QuantPlan, optional
            The formats; by default nothing is rounded.
        """,
    "plan_of_norm": """
        plan : QuantPlan, optional
            The formats: ``weight`` is that of g, ``bias`` that of b. By default nothing is rounded.
        """,
    "in_features": """
        in_features : int
            The number of features of x.
        """,
    "out_features": """
        out_features : int
            The number of features of y.
        """,
    "in_channels": """
        in_channels : int
            The number of channels of x.
        """,
    "out_channels": """
        out_channels : int
            The number of channels of y.
        """,
    "kernel_size": """
        kernel_size : int or (int, int)
            The height and width of the kernel.
        """,
    "stride": """
        stride : int or (int, int)
            The step of the kernel between two outputs.
        """,
    "padding": """
        padding : int, (int, int) or str
            The number of rows and columns added on each side, or "valid" or "same".
        """,
    "dilation": """
        dilation : int or (int, int)
            The spacing of the elements of the kernel.
        """,
    "groups": """
        groups : int
            The number of groups of channels that are convolved separately.
        """,
    "padding_mode": """
        padding_mode : {"zeros", "reflect", "replicate", "circular"}
            The values used for padding.
        """,
    "num_features": """
        num_features : int
            C, the number of channels.
        """,
    "eps": """
        eps : float
            Added to the variance.
        """,
    "momentum": """
        momentum : float or None
            The weight of a batch in the running statistics; None for the mean of all batches.
        """,
    "affine": """
        affine : bool
            Whether there is a weight and a bias for each channel.
        """,
    "track_running_stats": """
        track_running_stats : bool
            Whether running statistics are kept, for eval mode.
        """,
}


def documented_layer(**others: str) -> Callable[[F], F]:
    """Return a decorator that fills the docstring of a module with the parts above; see :func:`documented_by`."""
    return documented_by(_PARTS, **others)


#: Parts that the docstrings of the recurrent layers' forward have in common
FORWARD = {
    "input": """
        input : Tensor or PackedSequence
            The input, with the dtype of the parameters and at least one step. Only the valid steps of a PackedSequence
            are computed.
        """,
    "steps": """
        *unnamed : None
            A placeholder for an argument of older versions of torch; nothing else is accepted.
        reset : Tensor, optional
            bool (T, B), or (B, T) if batch_first, or (T,): steps at which a new sequence starts, in every layer. The
            forward direction drops the states before these steps, the reverse direction the states after them.
        lengths : integers (B,), optional
            Number of valid steps of each row of a padded batch, 0 to T. Later steps are ignored, and their output is 0.
        cu_seqlens : integers (S + 1,), optional
            Bounds of S sequences concatenated in input (M, I); in the states, B is S.
        """,
    "output": """
        output : Tensor or PackedSequence
            The last layer's h at each step, with both directions concatenated.
        """,
    "errors": """
        Raises
        ------
        RuntimeError, ValueError, TypeError
            For a wrong shape, dtype or type of an argument, with the exception classes of torch.nn.
        BackendError
            For tensors on a device other than that of the parameters, or on one without kernels.
        """,
}
#: The sections from Parameters to Raises for a layer whose state is only h, with placeholders for the parts above
ONE_STATE = {
    "one_state": """
        Parameters
        ----------
        %(input)s
        hx : Tensor, or a tuple of one, optional
            h (layers * directions, B, H), without B for unbatched input. None: zeros.
        %(steps)s

        Returns
        -------
        %(output)s
        h : Tensor
            The state after the last step of each row, shaped like hx.

        %(errors)s
        """
}
