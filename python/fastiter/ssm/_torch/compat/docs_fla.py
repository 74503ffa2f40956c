"""Parts of the docstrings of the functions with the signatures of flash-linear-attention (fla)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ...._docs import documented_by
from ...._torch.autograd import names_errors

F = TypeVar("F", bound=Callable[..., Any])

RAISES = """
    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype, or an unknown option; for a wrong shape, or a value that is not supported.
"""
_FLA = {
    "q": """
        q : Tensor (B, T, H, K), float32, float64, float16 or bfloat16
            Queries.
        """,
    "r": """
        r : Tensor (B, T, H, K), float32, float64, float16 or bfloat16
            Receptances, which are the queries.
        """,
    "k": """
        k : Tensor (B, T, H, K)
            Keys.
        """,
    "v": """
        v : Tensor (B, T, N, V)
            Values; N is a multiple of H, and head n uses the keys of head n // (N / H).
        """,
    "g": """
        g : Tensor (B, T, N), optional
            The logarithm of the decay of each head.
        """,
    "g_keys": """
        g : Tensor (B, T, N, K)
            The logarithm of the decay of each key.
        """,
    "g_channels": """
        g : Tensor (B, T, D)
            The logarithm of the decay.
        """,
    "g_gamma": """
        g_gamma : Tensor (N,), optional
            The logarithm of the decay of each head, the same at all steps.
        """,
    "gk": """
        gk : Tensor (B, T, N, K), optional
            The logarithm of the decay of each key.
        """,
    "gk_given": """
        gk : Tensor (B, T, N, K)
            The logarithm of the decay of each key.
        """,
    "gk_none": """
        gk : None
            A decay for each key, which only the ``kda`` functions support.
        """,
    "gv": """
        gv : None
            A decay for each value, which is not supported.
        """,
    "w": """
        w : Tensor (B, T, N, K)
            The logarithm of the decay of each key.
        """,
    "u": """
        u : Tensor (N, K)
            The weight of the current step.
        """,
    "a": """
        a : Tensor (B, T, N, K)
            The direction in which the correction reads the state.
        """,
    "b": """
        b : Tensor (B, T, N, K)
            The direction in which the correction is written.
        """,
    "beta": """
        beta : Tensor (B, T, N), optional
            The fraction of the old value that the new one replaces; 1 by default where it is optional.
        """,
    "k_factors": """
        k : Tensor (B, T F, H, K)
            Keys; the F = ``num_householder`` factors of a step are consecutive.
        """,
    "v_factors": """
        v : Tensor (B, T F, N, V)
            Values in the same order; N is a multiple of H.
        """,
    "beta_factors": """
        beta : Tensor (B, T F, N)
            The fraction of the old value that the new one replaces.
        """,
    "x": """
        x : Tensor (B, T, D), float32, float64, float16 or bfloat16
            Inputs.
        """,
    "scale": """
        scale : float, optional
            A factor of the queries; 1 / sqrt(K) if None.
        """,
    "initial_state": """
        initial_state : Tensor (B, N, K, V), optional
            State before the first step; zero by default.
        """,
    "initial_vector": """
        initial_state : Tensor (B, D), optional
            State before the first step; zero by default.
        """,
    "output_final_state": """
        output_final_state : bool
            Also return the state after the last step.
        """,
    "reverse": """
        reverse : bool
            Run from the last step to the first; not with ``cu_seqlens``.
        """,
    "normalize": """
        normalize : bool
            Divide o by the inner product of the query and the sum of the keys so far. The state is then a pair of the
            matrix (B, N, K, V) and that sum, (B, 1, N, K).
        """,
    "use_qk_l2norm_in_kernel": """
        use_qk_l2norm_in_kernel : bool
            Divide queries and keys by their norms.
        """,
    "use_gate_in_kernel": """
        use_gate_in_kernel : bool
            Interpret g as the input of a gate: the logarithm of the decay is -exp(A_log) softplus(g + dt_bias).
        """,
    "A_log": """
        A_log : Tensor (N,), optional
            The logarithm of the gate's rate.
        """,
    "dt_bias": """
        dt_bias : Tensor (N,), or with N K elements if g has a value for each key, optional
            Added to the gate's input.
        """,
    "dt_bias_heads": """
        dt_bias : Tensor (N,), optional
            Added to the gate's input.
        """,
    "use_beta_sigmoid_in_kernel": """
        use_beta_sigmoid_in_kernel : bool
            Apply the sigmoid to beta.
        """,
    "allow_neg_eigval": """
        allow_neg_eigval : bool
            Double the sigmoid of beta, whose range is then 0 to 2.
        """,
    "safe_gate": """
        safe_gate : bool
            An option of fla's kernels, which changes nothing here.
        """,
    "lower_bound": """
        lower_bound : float, optional
            The lower bound of the decay's logarithm, which is then lower_bound sigmoid(exp(A_log) (g + dt_bias)).
        """,
    "disable_recompute": """
        disable_recompute : bool
            An option of fla's kernels, which changes nothing here.
        """,
    "return_intermediate_states": """
        return_intermediate_states : bool
            Must be False, as intermediate states are not kept.
        """,
    "state_v_first": """
        state_v_first : bool
            States are (B, N, V, K).
        """,
    "num_householder": """
        num_householder : int
            The number of factors of a step.
        """,
    "layer_idx": """
        layer_idx : int
            The index of the layer, from 0.
        """,
    "num_layers": """
        num_layers : int
            The number of layers.
        """,
    "cu_seqlens": """
        cu_seqlens : Tensor (S + 1,), optional
            S sequences packed into one row (B = 1): sequence s is the steps cu_seqlens[s] to cu_seqlens[s + 1]. States
            then have S rows.
        """,
    "**rest": """
        **rest : object
            Options of fla's kernels that do not affect results, which are ignored; others are refused.
        """,
    "hgrn": f"""
    Returns
    -------
    h : Tensor (B, T, D)
        The states of all steps, in the dtype of x. Differentiable in every floating-point tensor.
    state : Tensor (B, D), float32 or float64, or None
        State after the last step; None without ``output_final_state``.

{RAISES.strip(chr(10))}
    """,
    "result": f"""
    Returns
    -------
    o : Tensor (B, T, N, V)
        The outputs, in the dtype of the inputs. Differentiable in every floating-point tensor.
    state : Tensor (B, N, K, V), float32 or float64, or None
        State after the last step; None without ``output_final_state``.

{RAISES.strip(chr(10))}
    """,
}


def documented_fla(**others: str) -> Callable[[F], F]:
    """Return a decorator for a function of fla: fills its docstring, see :func:`documented_by`; errors name it."""
    fill = documented_by(_FLA, **others)
    return lambda function: names_errors(fill(function))
