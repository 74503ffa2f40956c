"""Parts of the docstrings of the functions with the signatures of mamba_ssm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ...._docs import documented_by
from .docs_fla import RAISES

F = TypeVar("F", bound=Callable[..., Any])

_MAMBA = {
    "x": """
        x : Tensor (B, T, H, P), float32, float64, float16 or bfloat16
            Inputs of H heads of P channels.
        """,
    "x_step": """
        x : Tensor (B, D) or (B, H, P)
            The input of the step.
        """,
    "x_rows": """
        x : Tensor (..., D), float32, float64, float16 or bfloat16
            Inputs of D channels.
        """,
    "u": """
        u : Tensor (B, D, T), float32, float64, float16 or bfloat16
            Inputs.
        """,
    "xz": """
        xz : Tensor (B, 2 D, T), float32, float64, float16 or bfloat16
            x and the gate z, with any strides.
        """,
    "zxbcdt": """
        zxbcdt : Tensor (B, T, 2 M + 2 H P + 2 G N + H), float32, float64, float16 or bfloat16
            The output of in_proj: a gated MLP's two halves (M may be 0), z, x, B, C and dt, of H heads of P channels
            and G groups of N states.
        """,
    "state": """
        state : Tensor (B, D, N) or (B, H, P, N), float32, float64, float16 or bfloat16
            The states, updated in place.
        """,
    "delta": """
        delta : Tensor (B, D, T)
            Step sizes.
        """,
    "dt": """
        dt : Tensor (B, T, H)
            Step sizes.
        """,
    "dt_step": """
        dt : Tensor (B, D) or (B, H, P)
            Step sizes.
        """,
    "A": """
        A : Tensor (D, N), float or complex
            Rates; those with negative real parts decay.
        """,
    "A_heads": """
        A : Tensor (H,)
            Rates; negative ones decay.
        """,
    "A_step": """
        A : Tensor (D, N) or (H, P, N)
            Rates; negative ones decay.
        """,
    "B": """
        B : Tensor (B, N, T), (B, G, N, T) or (D, N)
            Weights of the inputs, for G groups of channels, or the same at all steps.
        """,
    "B_given": """
        B : Tensor (B, N, T), (B, G, N, T) or (D, N), optional
            Weights of the inputs instead of the projected ones.
        """,
    "B_heads": """
        B : Tensor (B, T, G, N)
            Weights of the inputs, for G groups of heads.
        """,
    "B_step": """
        B : Tensor (B, N) or (B, G, N)
            Weights of the input, for G groups of heads.
        """,
    "C": """
        C : Tensor (B, N, T), (B, G, N, T) or (D, N)
            Weights of the outputs, for G groups of channels, or the same at all steps.
        """,
    "C_given": """
        C : Tensor (B, N, T), (B, G, N, T) or (D, N), optional
            Weights of the outputs instead of the projected ones.
        """,
    "C_heads": """
        C : Tensor (B, T, G, N)
            Weights of the outputs, for G groups of heads.
        """,
    "C_step": """
        C : Tensor (B, N) or (B, G, N)
            Weights of the output, for G groups of heads.
        """,
    "D": """
        D : Tensor (D,), optional
            Weight of the input in the output.
        """,
    "D_heads": """
        D : Tensor (H,) or (H, P), optional
            Weight of x in the output.
        """,
    "D_step": """
        D : Tensor (D,) or (H, P), optional
            Weight of x in the output.
        """,
    "D_given": """
        D : Tensor (H,) or (H, P)
            Weight of x in the output.
        """,
    "z": """
        z : Tensor, optional
            The gate, with the shape of the output, which is multiplied by z s(z).
        """,
    "delta_bias": """
        delta_bias : Tensor (D,), optional
            Added to delta.
        """,
    "dt_bias": """
        dt_bias : Tensor (H,), or (D,) or (H, P) for a single step, optional
            Added to dt.
        """,
    "dt_bias_given": """
        dt_bias : Tensor (H,)
            Added to dt.
        """,
    "delta_softplus": """
        delta_softplus : bool
            Apply log(1 + e^x) to delta + delta_bias.
        """,
    "dt_softplus": """
        dt_softplus : bool
            Apply log(1 + e^x) to dt + dt_bias.
        """,
    "dt_limit": """
        dt_limit : pair of float
            Bounds of the step sizes.
        """,
    "return_last_state": """
        return_last_state : bool
            Also return the state after the last step.
        """,
    "return_final_states": """
        return_final_states : bool
            Also return the states after the last step.
        """,
    "return_varlen_states": """
        return_varlen_states : bool
            Also return the states after the packed sequences.
        """,
    "state_batch_indices": """
        state_batch_indices : integers (B,), optional
            The row of ``state`` for each row of x; a negative index marks padding, whose output is 0.
        """,
    "conv1d_weight": """
        conv1d_weight : Tensor (D, 1, W) or (D, W)
            Taps of the convolution.
        """,
    "conv1d_weight_heads": """
        conv1d_weight : Tensor (H P + 2 G N, W)
            Taps of the convolution of x, B and C.
        """,
    "conv1d_bias": """
        conv1d_bias : Tensor (D,) or None
            Added to the sums of the convolution.
        """,
    "conv1d_bias_heads": """
        conv1d_bias : Tensor (H P + 2 G N,) or None
            Added to the sums of the convolution.
        """,
    "x_proj_weight": """
        x_proj_weight : Tensor (R + 2 N, D)
            Projection to R inputs of the step size, to B and to C.
        """,
    "delta_proj_weight": """
        delta_proj_weight : Tensor (D, R)
            Projection to the step sizes.
        """,
    "out_proj_weight": """
        out_proj_weight : Tensor (M, D)
            Projection of the result.
        """,
    "out_proj_bias": """
        out_proj_bias : Tensor (M,) or None
            Added to the projected result.
        """,
    "outproj_weight": """
        outproj_weight : Tensor (O, M + H P), optional
            Projection of the result.
        """,
    "outproj_bias": """
        outproj_bias : Tensor (O,), optional
            Added to the projected result.
        """,
    "B_proj_bias": """
        B_proj_bias : Tensor (N,), optional
            Added to the projected B.
        """,
    "C_proj_bias": """
        C_proj_bias : Tensor (N,), optional
            Added to the projected C.
        """,
    "checkpoint_lvl": """
        checkpoint_lvl : {0, 1}
            An option of the original's backward pass, which changes nothing here.
        """,
    "chunk_size": """
        chunk_size : int
            An option of the original's kernels, which changes nothing here.
        """,
    "b_rms_weight": """
        b_rms_weight : Tensor (N,), optional
            If given, the projected B is divided by its root mean square and multiplied by this weight.
        """,
    "c_rms_weight": """
        c_rms_weight : Tensor (N,), optional
            The same for the projected C.
        """,
    "dt_rms_weight": """
        dt_rms_weight : Tensor (D,), optional
            The same for the projected step sizes.
        """,
    "b_c_dt_rms_eps": """
        b_c_dt_rms_eps : float
            Added to these mean squares.
        """,
    "initial_states": """
        initial_states : Tensor (B, H, P, N), optional
            States before the first step; zero by default.
        """,
    "seq_idx": """
        seq_idx : integers (B, T), optional
            The index of each step's sequence; the state is dropped where it changes.
        """,
    "cu_seqlens": """
        cu_seqlens : integers (S + 1,), optional
            The bounds of packed sequences, for ``return_varlen_states``.
        """,
    "activation": """
        activation : {None, "silu", "swish"}
            The function of the convolution's output.
        """,
    "rmsnorm_weight": """
        rmsnorm_weight : Tensor (H P,), optional
            Weight of a gated RMSNorm; without it, the result is multiplied by z s(z) and not normalised.
        """,
    "rmsnorm_eps": """
        rmsnorm_eps : float
            Added to its mean squares.
        """,
    "headdim": """
        headdim : int, optional
            P; required if D is (H,).
        """,
    "ngroups": """
        ngroups : int
            G.
        """,
    "norm_before_gate": """
        norm_before_gate : bool
            Multiply by the gate after the normalisation, not before.
        """,
    "weight": """
        weight : Tensor (D,)
            Factors of the channels.
        """,
    "bias": """
        bias : Tensor (D,) or None
            Added to the channels.
        """,
    "residual": """
        residual : Tensor (..., D), optional
            Added to x first.
        """,
    "eps": """
        eps : float
            Added to the mean squares.
        """,
    "group_size": """
        group_size : int, optional
            The number of channels that are normalised together; all by default.
        """,
    "is_rms_norm": """
        is_rms_norm : bool
            Divide by the root mean square, without subtracting the mean.
        """,
    "prenorm": """
        prenorm : bool
            Also return the sum with the residual.
        """,
    "residual_in_fp32": """
        residual_in_fp32 : bool
            Return this sum in float32 if there is no residual.
        """,
    "dropout_p": """
        dropout_p : float
            Must be 0, as dropout is not supported.
        """,
    "return_dropout_mask": """
        return_dropout_mask : bool
            Must be False, as dropout is not supported.
        """,
    **{
        name: f"""
        {name} : None
            {what} of the original, which is not supported.
        """
        for name, what in {
            "x1": "A second input",
            "weight1": "The weight of a second normalization",
            "bias1": "The bias of a second normalization",
            "rowscale": "A factor of each row",
        }.items()
    },
    "hidden_size": """
        hidden_size : int
            D, the number of channels.
        """,
    "device": """
        device : torch.device, optional
            The device of the parameters.
        """,
    "dtype": """
        dtype : torch.dtype, optional
            The dtype of the parameters.
        """,
    "raises": RAISES,
}


def documented_mamba(**others: str) -> Callable[[F], F]:
    """Return a decorator that fills the docstring of a function of mamba_ssm; see :func:`documented_by`."""
    return documented_by(_MAMBA, **others)
