"""Schemas of all ops by the module to import before they run, written by tests/core/tools/op_schemas.py."""

# ruff: noqa: E501

from __future__ import annotations

SCHEMAS = {
    "..delta._torch.functional": {
        "_delta_bwd": "(Tensor q, Tensor k, Tensor beta, Tensor? decay, Tensor? state, Tensor e, Tensor states, Tensor? dout, Tensor? dlast, str method, int chunk, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens, int requested) -> Tensor[]",
        "_delta_fwd": "(Tensor q, Tensor k, Tensor v, Tensor beta, Tensor? decay, Tensor? state, str method, int chunk, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens, bool save) -> Tensor[]",
    },
    "..newton._torch.functional": {
        "_para_bwd": "(str cell_name, Tensor wx, Tensor a, Tensor? p, Tensor[] state, Tensor[] states, Tensor? dh, Tensor? dlast, bool reverse, Tensor? lengths, bool need_weights, bool newton, Tensor? reset=None, Tensor? cu_seqlens=None) -> Tensor[]",
        "_para_fwd": "(str cell_name, Tensor wx, Tensor a, Tensor? p, Tensor[] state, bool reverse, Tensor? lengths, int window, int max_steps, float rtol, float atol, bool save, Tensor? reset=None, Tensor? cu_seqlens=None) -> Tensor[]",
    },
    "..rnn._torch.functional": {
        "_rnn_bwd": "(str cell_name, Tensor r, Tensor[] state, Tensor[] states, Tensor[] saved, Tensor?[] dstates, Tensor?[] dlast, bool reverse, Tensor? lengths, Tensor? batch_sizes, bool need_r, bool need_b, bool need_state, Tensor? cu_seqlens=None, Tensor? reset=None, float? clip_state=None, float? clip_grad=None, int checkpoint=0, Tensor? wx=None, Tensor? b=None) -> Tensor[]",
        "_rnn_fwd": "(str cell_name, Tensor wx, Tensor r, Tensor? b, Tensor[] state, bool reverse, Tensor? lengths, Tensor? batch_sizes, bool all_states, bool save, Tensor? cu_seqlens=None, Tensor? reset=None, float? clip_state=None, float? clip_grad=None, int checkpoint=0) -> Tensor[]",
    },
    "..scan._torch.functional": {
        "_block_scan_bwd": "(Tensor a, Tensor h, Tensor? state, Tensor? dh, Tensor? dlast, bool reverse, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens, bool need_x, bool need_a, bool need_h0) -> Tensor[]",
        "_block_scan_fwd": "(Tensor a, Tensor x, Tensor? state, bool reverse, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens) -> Tensor[]",
        "_block_scan_out": "(Tensor a, Tensor x, Tensor? state, bool reverse, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens, Tensor(changed!) out) -> Tensor",
        "_linear_scan_bwd": "(Tensor a, Tensor h, Tensor? state, Tensor? dh, Tensor? dlast, bool reverse, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens, bool need_x, bool need_a, bool need_h0) -> Tensor[]",
        "_linear_scan_fwd": "(Tensor a, Tensor x, Tensor? state, bool reverse, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens) -> Tensor[]",
        "_linear_scan_out": "(Tensor a, Tensor x, Tensor? state, bool reverse, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens, Tensor(changed!) out) -> Tensor",
    },
    "..ssm._torch.ops_wkv": {
        "_wkv_bwd": "(Tensor w, Tensor bonus, Tensor k, Tensor v, Tensor? numerator, Tensor? denominator, Tensor? m, Tensor states, Tensor? dout, Tensor? dlast_numerator, Tensor? dlast_denominator, Tensor? dlast_m, int requested) -> Tensor[]",
        "_wkv_fwd": "(Tensor w, Tensor bonus, Tensor k, Tensor v, Tensor? numerator, Tensor? denominator, Tensor? m, bool save) -> Tensor[]",
    },
    "..torch.fixedpoint": {
        "_fixedpoint_prox": "(Tensor y, int kind, float parameter, int axis) -> Tensor",
        "_hopfield_adjoint": "(Tensor value, Tensor stored, Tensor beta, Tensor? bias, Tensor dvalue, float rtol, bool throw) -> Tensor[]",
        "_hopfield_bwd": "(Tensor stored, Tensor beta, Tensor? bias, Tensor steps, Tensor states, Tensor largest, Tensor inverse, Tensor dvalue) -> Tensor[]",
        "_hopfield_fwd": "(Tensor state, Tensor stored, Tensor beta, Tensor? bias, bool stops, float rtol, float atol, int max_steps, bool save, str report) -> Tensor[]",
        "_sinkhorn": "(Tensor cost, Tensor log_a, Tensor log_b, Tensor start, float epsilon, Tensor tolerance, int max_steps) -> Tensor[]",
    },
    "..torch.mdp": {
        "_mdp_chain_values": "(Tensor crow, Tensor col, Tensor weights, Tensor b, bool transpose) -> Tensor",
        "_mdp_policy": "(Tensor row, Tensor crow, Tensor col, Tensor values, Tensor rewards, Tensor? pair, Tensor gamma, float atol, int max_steps) -> Tensor",
    },
    "..torch.quant": {
        "_quant_decode": "(Tensor codes, Tensor? scales, str fmt, Tensor? scale, Tensor? zero_point, ScalarType dtype) -> Tensor",
        "_quant_encode": "(Tensor x, str fmt, Tensor? scale, Tensor? zero_point, int axis, Tensor? seed, bool refuse_nan, float? nan) -> Tensor[]",
        "_quant_linear": "(Tensor x, Tensor weight, Tensor? bias, str accumulate, int every) -> Tensor",
        "_quant_seed": "(Tensor(changed!) counter, int seed, bool advance) -> Tensor",
        "_quant_step": "(Tensor point, str function) -> Tensor",
        "_quantize": "(Tensor x, str fmt, Tensor? scale, Tensor? zero_point, int axis, Tensor? seed, str function, bool refuse_nan, float? nan) -> Tensor",
        "_quantize_bwd": "(Tensor dy, Tensor x, Tensor y, str fmt, Tensor? scale, Tensor? zero_point, bool clip, bool need_scale) -> Tensor[]",
    },
    "..torch.relax": {
        "_relax_solve": "(Tensor values, Tensor crow, Tensor col, Tensor b, Tensor? x0, str method, float omega, str order, float rtol, float atol, int max_steps, int check_every) -> Tensor[]",
        "_relax_sweeps": "(Tensor values, Tensor crow, Tensor col, Tensor x, Tensor b, Tensor omega, int k, str method, str order) -> Tensor",
        "_relax_sweeps_bwd": "(Tensor values, Tensor crow, Tensor col, Tensor omega, Tensor iterates, Tensor g, str method, str order) -> Tensor[]",
    },
    "..torch.ssm": {
        "_attention_bwd": "(Tensor q, Tensor k, Tensor v, Tensor? decay, Tensor? bonus, Tensor states, Tensor? dout, Tensor? dlast, int form, float scale, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens, int requested) -> Tensor[]",
        "_attention_fwd": "(Tensor q, Tensor k, Tensor v, Tensor? decay, Tensor? bonus, Tensor? state, int form, float scale, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens, bool save) -> Tensor[]",
        "_causal_conv_bwd": "(Tensor x, Tensor weight, Tensor? bias, Tensor? state, Tensor? dout, Tensor? dlast, bool silu, Tensor? seq_idx, Tensor? lengths, Tensor? cu_seqlens, int requested) -> Tensor[]",
        "_causal_conv_fwd": "(Tensor x, Tensor weight, Tensor? bias, Tensor? state, bool silu, Tensor? seq_idx, Tensor? lengths, Tensor? cu_seqlens, bool keep) -> Tensor[]",
        "_causal_conv_update": "(Tensor(changed!) conv_state, Tensor x, Tensor weight, Tensor? bias, bool silu, Tensor? cache_seqlens, Tensor? rows) -> Tensor",
        "_low_rank_bwd": "(Tensor q, Tensor k, Tensor v, Tensor? decay, Tensor? a, Tensor? b, Tensor? beta, Tensor w, Tensor states, Tensor? dout, Tensor? dlast, int form, float scale, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens, int requested) -> Tensor[]",
        "_low_rank_fwd": "(Tensor q, Tensor k, Tensor v, Tensor? decay, Tensor? a, Tensor? b, Tensor? beta, Tensor? state, int form, float scale, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens, bool save) -> Tensor[]",
        "_mlstm_bwd": "(Tensor q, Tensor k, Tensor v, Tensor i, Tensor f, Tensor? C, Tensor? n, Tensor? m, Tensor last_C, Tensor last_n, Tensor saved_C, Tensor saved_n, Tensor saved_m, Tensor? dh, Tensor? dlast_C, Tensor? dlast_n, Tensor? dlast_m, float scale, float eps, bool through_normalizer, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens, int requested) -> Tensor[]",
        "_mlstm_fwd": "(Tensor q, Tensor k, Tensor v, Tensor i, Tensor f, Tensor? C, Tensor? n, Tensor? m, float scale, float eps, bool through_normalizer, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens, bool save) -> Tensor[]",
        "_selective_bwd": "(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, Tensor states, Tensor? dout, Tensor? dlast, bool softplus, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens, int requested) -> Tensor[]",
        "_selective_fwd": "(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, Tensor? state, bool softplus, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens, bool save) -> Tensor[]",
        "_selective_step": "(Tensor(changed!) state, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dt_bias, bool softplus, Tensor? rows) -> Tensor",
    },
    ".elementwise": {
        "_elementwise_bwd": "(Tensor saved, Tensor dy, int function) -> Tensor",
        "_elementwise_fwd": "(Tensor x, int function) -> Tensor",
        "_gate_bwd": "(Tensor y, Tensor z, Tensor d) -> Tensor[]",
        "_gate_fwd": "(Tensor y, Tensor z) -> Tensor",
    },
    ".linear": {
        "_linear_bwd": "(Tensor dy, Tensor x, Tensor weight, bool[] need) -> Tensor[]",
        "_linear_fwd": "(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    },
}

#: Ops without an implementation for CUDA tensors
ON_CPU_ONLY = ("_elementwise_bwd", "_elementwise_fwd", "_gate_bwd", "_gate_fwd", "_wkv_bwd", "_wkv_fwd")
