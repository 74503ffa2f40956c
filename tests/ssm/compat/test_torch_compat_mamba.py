"""torch.compat.mamba_ssm and causal_conv1d: results for the originals' arguments, in the originals' order.

``python -m tests.ssm.originals`` compares them with the originals, which cannot be installed without CUDA.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from fastiter.torch.compat import causal_conv1d, mamba_ssm  # noqa: E402
from tests.ssm import mixer_reference as reference  # noqa: E402
from tests.ssm.mixer_calls import B, D, H, N, P, T, chunk_inputs, inner_inputs, scan_inputs, split_inputs  # noqa: E402
from tests.ssm.tensors.test_torch_mixers import DOUBLE, assert_equal_results, labels, results  # noqa: E402

ssm = fastiter.torch.ssm


def test_mamba() -> None:
    given = scan_inputs(torch.float32, groups=2)
    order = [given[name] for name in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")]
    out, last = mamba_ssm.selective_scan_fn(*order, True, True)
    assert torch.equal(out, ssm.selective_scan(**given, delta_softplus=True)) and last.dtype == torch.float32
    given = inner_inputs(DOUBLE)
    names = ("xz", "conv1d_weight", "conv1d_bias", "x_proj_weight", "delta_proj_weight", "out_proj_weight")
    names = (*names, "out_proj_bias", "A", None, None, "D", "delta_bias", "B_proj_bias", "C_proj_bias")
    order = [given[name] if name else None for name in names]
    scales = torch.rand(N, dtype=DOUBLE), torch.rand(N, dtype=DOUBLE), torch.rand(D, dtype=DOUBLE)
    found = mamba_ssm.mamba_inner_fn(*order, True, 0, *scales, 1e-3)
    more = dict(zip(("b_rms_weight", "c_rms_weight", "dt_rms_weight"), scales, strict=True))
    torch.testing.assert_close(found, reference.mamba_inner(**given, **more, b_c_dt_rms_eps=1e-3))
    with pytest.raises(ValueError, match=r"^mamba_inner_fn: checkpoint_lvl must be 0 or 1, got 2"):
        mamba_ssm.mamba_inner_fn(*order, checkpoint_lvl=2)


def chunk_reference(x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, z: Any, dt_bias: Any, **more: Any) -> Any:
    d = torch.log1p(torch.exp(dt + dt_bias)).clamp(0.2, 1.5)
    B, C = (y.repeat_interleave(H // y.shape[2], 2) for y in (B, C))
    y, last = reference.scan(x, d, A, B, C, more["initial_states"], more["seq_idx"])
    return (y + D[:, None] * x) * reference.sigmoid_gate(z), last


def test_mamba2() -> None:
    given = chunk_inputs(DOUBLE) | {"initial_states": torch.randn(B, H, P, N, dtype=DOUBLE)}
    options = {"seq_idx": labels().int()}

    def ours(x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, z: Any, dt_bias: Any, initial_states: Any) -> Any:
        rest = (labels().int(), None, True, (0.2, 1.5), True)
        return mamba_ssm.mamba_chunk_scan_combined(x, dt, A, B, C, 8, D, z, dt_bias, initial_states, *rest)

    assert_equal_results(results(ours, given), results(chunk_reference, given, **options), list(given))
    given, options = split_inputs(DOUBLE)
    first, last = list(given.values())[:6], list(given.values())[6:]
    middle = (8, None, labels(), (0.2, 1.5), True, None, last[0], 1e-3, *last[1:])
    found = mamba_ssm.mamba_split_conv1d_scan_combined(*first, *middle, options["headdim"], options["ngroups"])
    keywords = {"seq_idx": labels(), "dt_limit": (0.2, 1.5), "activation": None, "rmsnorm_eps": 1e-3, **options}
    expected = ssm.mamba2_inner(**given, **keywords, return_last_state=True)
    assert all(torch.equal(a, e) for a, e in zip(found, expected, strict=True))
    del given["rmsnorm_weight"]
    plain = mamba_ssm.mamba_split_conv1d_scan_combined(**given, chunk_size=8, rmsnorm_eps=None, **options)
    assert torch.equal(plain, ssm.mamba2_inner(**given, **options))  # FalconH1 passes None


def test_states_of_packed_sequences() -> None:
    given = {n: x[:1] if x.dim() > 2 else x for n, x in chunk_inputs(DOUBLE).items()}
    numbers, bounds = labels()[:1], torch.tensor([0, 8, 13, 13, T], dtype=torch.int32)
    options = {"chunk_size": 8, "seq_idx": numbers, "dt_softplus": True, "cu_seqlens": bounds}
    every = mamba_ssm.mamba_chunk_scan_combined(**given, **options, return_final_states=True, return_varlen_states=True)
    out, last, states = every
    assert torch.equal(out, mamba_ssm.mamba_chunk_scan_combined(**given, **options))
    assert states.shape == (4, H, P, N) and not states[2].any()
    torch.testing.assert_close(states[3:], last)
    alone = {n: x[:, 8:13] if x.dim() > 2 else x for n, x in given.items()}
    part, state = mamba_ssm.mamba_chunk_scan_combined(**alone, chunk_size=8, dt_softplus=True, return_final_states=True)
    torch.testing.assert_close((out[:, 8:13], states[1:2]), (part, state))
    only = mamba_ssm.mamba_chunk_scan_combined(**given, **options, return_varlen_states=True)
    assert len(only) == 2 and torch.equal(only[1], states)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_norms_with_a_residual(stored: Any) -> None:
    x, residual, weight, bias = torch.randn(2, 3, 6), torch.randn(2, 3, 6), torch.randn(6), torch.randn(6)
    x = x.to(stored)
    for function, centered in ((mamba_ssm.layer_norm_fn, True), (mamba_ssm.rms_norm_fn, False)):
        for added in (None, residual, residual.bfloat16()):
            y, total = function(x, weight, bias, added, prenorm=True, eps=0.1)
            exact = x.float() if added is None else x.float() + added.float()
            assert total.dtype == (stored if added is None else added.dtype) and y.dtype == stored
            assert torch.equal(total, exact.to(total.dtype))
            expected = reference.norm(exact, weight, None, bias, 0.1, 1, True, centered)
            torch.testing.assert_close(y, expected.to(stored))
            assert torch.equal(function(x, weight, bias, added, eps=0.1), y)
        assert function(x, weight, bias, prenorm=True, residual_in_fp32=True)[1].dtype == torch.float32
    module = mamba_ssm.RMSNorm(6, eps=0.1)
    y, total = module(x, residual, prenorm=True)
    expected = mamba_ssm.layer_norm_fn(x, torch.ones(6), None, residual, eps=0.1, prenorm=True, is_rms_norm=True)
    assert torch.equal(y, expected[0]) and torch.equal(total, expected[1])
    assert set(module.state_dict()) == {"weight"}


def test_gated_norms() -> None:
    x, z, weight, bias = torch.randn(2, 3, 6), torch.randn(2, 3, 6), torch.randn(6), torch.randn(6)
    for size, groups in ((None, 1), (2, 3)):
        for before in (True, False):
            found = mamba_ssm.rmsnorm_fn(x, weight, bias, z, 0.1, size, before)
            torch.testing.assert_close(found, reference.norm(x, weight, z, bias, 0.1, groups, before))
            found = mamba_ssm.layernorm_fn(x, weight, bias, z, 0.1, size, before)
            torch.testing.assert_close(found, reference.norm(x, weight, z, bias, 0.1, groups, before, True))
            for kind, centered in ((mamba_ssm.RMSNormGated, False), (mamba_ssm.LayerNormGated, True)):
                module = kind(6, 0.1, size, before, dtype=torch.float32)
                expected = reference.norm(x, torch.ones(6), z, None, 0.1, groups, before, centered)
                torch.testing.assert_close(module(x, z), expected)
                assert set(module.state_dict()) == ({"weight", "bias"} if centered else {"weight"})


def test_steps_of_parameters_have_no_gradient() -> None:
    """As in the originals, whose modules call steps with their Parameters, in grad mode or not."""
    A, D, weight = (torch.nn.Parameter(x) for x in (-torch.rand(5, 3), torch.randn(5), torch.randn(5, 4)))
    (x, dt), (b, c) = torch.randn(2, 2, 5).unbind(), torch.randn(2, 2, 3).unbind()
    states = [torch.ones(2, 5, 3), torch.ones(2, 5, 3)]
    out = mamba_ssm.selective_state_update(states[0], x, dt, A, b, c, D, None, None, True)
    plain = ssm.selective_state_update(states[1], x, dt, A.detach(), b, c, D.detach(), dt_softplus=True)
    assert torch.equal(out, plain) and torch.equal(*states) and not out.requires_grad
    states = [torch.ones(2, 5, 3), torch.ones(2, 5, 3)]
    out = causal_conv1d.causal_conv1d_update(x, states[0], weight, None, "silu")
    plain = ssm.causal_conv1d_update(x, states[1], weight.detach(), None, "silu")
    assert torch.equal(out, plain) and torch.equal(*states) and not out.requires_grad


def test_convolutions() -> None:
    x, weight, bias, first = torch.randn(2, 5, 9), torch.randn(5, 4), torch.randn(5), torch.randn(2, 5, 3)
    out = causal_conv1d.causal_conv1d_fn(x, weight, bias, labels()[:, :9], None, False, None, "swish")
    expected = reference.convolution(x.transpose(1, 2), weight, bias, labels()[:, :9]).transpose(1, 2)
    torch.testing.assert_close(out, expected)
    place = torch.zeros(2, 3, 5).transpose(1, 2)
    out, last = causal_conv1d.causal_conv1d_fn(x, weight, bias, None, first, True, place)
    assert last is place and torch.equal(place, x[..., -3:])
    again = causal_conv1d.causal_conv1d_fn(x, weight, bias, initial_states=first, return_final_states=True)
    assert torch.equal(out, again[0]) and torch.equal(again[1], place)
    found = causal_conv1d.causal_conv1d_varlen_states(x[0].T, torch.tensor([0, 2, 9]), 4)
    assert torch.equal(found[0], torch.nn.functional.pad(x[0, :, :2], (2, 0)))


def test_unsupported_arguments_are_refused() -> None:
    x, weight = torch.randn(2, 6), torch.ones(6)
    chunk = chunk_inputs(torch.float32)
    one = {n: y[:1] if y.dim() > 2 else y for n, y in chunk.items()}
    states, bounds = torch.zeros(B, H, P, N), [0, T]
    norms = {"x1": x, "weight1": weight, "bias1": weight, "rowscale": x, "dropout_p": 0.5, "return_dropout_mask": True}

    def scan(given: Any, **more: Any) -> Any:
        return lambda: mamba_ssm.mamba_chunk_scan_combined(**given, chunk_size=8, **more)

    calls = [
        *(
            (f"layer_norm_fn: {n} must be", lambda n=n, y=y: mamba_ssm.layer_norm_fn(x, weight, None, **{n: y}))
            for n, y in norms.items()
        ),
        ("rms_norm_fn: residual must have shape", lambda: mamba_ssm.rms_norm_fn(x, weight, None, x[0])),
        ("layer_norm_fn: prenorm must be a bool", lambda: mamba_ssm.layer_norm_fn(x, weight, None, prenorm=1)),
        ("RMSNorm: dropout_p must be 0", lambda: mamba_ssm.RMSNorm(6, dropout_p=0.1)),
        (
            "rmsnorm_fn: group_size must be a divisor of D = 6, got 4",
            lambda: mamba_ssm.rmsnorm_fn(x, weight, None, None, 1e-6, 4),
        ),
        ("layernorm_fn: weight must have shape", lambda: mamba_ssm.layernorm_fn(x, weight[1:], None)),
        ("mamba_chunk_scan_combined: initial_states must have shape", scan(chunk, initial_states=states[:1])),
        ("mamba_chunk_scan_combined: seq_idx must have shape", scan(chunk, seq_idx=labels()[:1])),
        ("mamba_chunk_scan_combined: dt must have shape", scan({**chunk, "dt": chunk["dt"][1:]})),
        ("mamba_chunk_scan_combined: cu_seqlens must be given", scan(one, return_varlen_states=True)),
        ("mamba_chunk_scan_combined: x must .* B = 2", scan(chunk, return_varlen_states=True, cu_seqlens=bounds)),
        (
            "mamba_chunk_scan_combined: initial_states must be None",
            scan(one, return_varlen_states=True, cu_seqlens=bounds, initial_states=states[:1]),
        ),
        ("mamba_chunk_scan_combined: return_final_states must be a bool", scan(one, return_final_states=1)),
        (
            "causal_conv1d_fn: final_states_out must have shape",
            lambda: causal_conv1d.causal_conv1d_fn(
                torch.randn(1, 6, 9), torch.randn(6, 4), return_final_states=True, final_states_out=x
            ),
        ),
    ]
    for message, call in calls:
        with pytest.raises((TypeError, ValueError, NotImplementedError), match="^" + message):
            call()
