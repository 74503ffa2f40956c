"""The quantized weights of a layer in a checkpoint, in whichever layout its config names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._checkpoint import Stored
from ._layouts import Codes, from_awq, from_compressed_tensors, from_fp4, from_gptq

#: Tensors of quantized layers, by the last part of their names
KEYS = (
    "weight_packed",
    "weight_scale",
    "weight_shape",
    "weight_zero_point",
    "weight_global_scale",
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
)


def codes_of(name: str, tensors: Mapping[str, Stored], config: Mapping[str, Any]) -> Codes:
    """Return the codes of a layer's weights from its tensors and the ``quantization_config`` of the model."""
    method = config.get("quant_method")
    if method == "compressed-tensors":
        return _compressed(name, tensors, config)
    if method not in ("gptq", "awq"):
        raise ValueError(f"load: quant_method must be gptq, awq or compressed-tensors, got {method!r}")
    words, zeros, scales = (_of(name, tensors, key) for key in ("qweight", "qzeros", "scales"))
    bits = int(config.get("bits", 4))
    if method == "gptq":
        order = tensors["g_idx"].array if "g_idx" in tensors and tensors["g_idx"].array.size else None
        is_v2 = config.get("checkpoint_format") == "gptq_v2"
        return from_gptq(name, words.array, zeros.array, scales.floats(), bits, order, is_v2=is_v2)
    if bits != 4 or config.get("version", "gemm") != "gemm":
        got = f"{bits} bits, {config.get('version')}"
        raise ValueError(f"load: weights of awq must have 4 bits and the version gemm, got {got}")
    return from_awq(name, words.array, zeros.array, scales.floats())


def _compressed(name: str, tensors: Mapping[str, Stored], config: Mapping[str, Any]) -> Codes:
    packed, scales = _of(name, tensors, "weight_packed"), _of(name, tensors, "weight_scale")
    if "weight_global_scale" in tensors:
        divisor = float(tensors["weight_global_scale"].floats().reshape(-1)[0])
        return from_fp4(name, packed.array, scales.array, 1 / divisor)
    if packed.type == "U8":
        return from_fp4(name, packed.array, scales.array)
    N, K = (int(n) for n in _of(name, tensors, "weight_shape").array)
    zero = tensors["weight_zero_point"].array if "weight_zero_point" in tensors else None
    bits = 32 * packed.array.shape[1] // K if K else 4
    return from_compressed_tensors(name, packed.array, scales.floats(), (N, K), 8 if bits > 4 else 4, zero)


def _of(name: str, tensors: Mapping[str, Stored], key: str) -> Stored:
    if key not in tensors:
        raise ValueError(f"load: {name} must have a tensor {key}, got {', '.join(tensors)}")
    return tensors[key]
