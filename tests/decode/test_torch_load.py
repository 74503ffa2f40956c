"""Decoders from files: equal to those from models in memory, from numbers and from quantized weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", "5.24")
safetensors = pytest.importorskip("safetensors.torch")

from fastiter.torch import Decoder, decode  # noqa: E402
from tests.decode.models import MAIN, make, tokens  # noqa: E402

#: Configs of xLSTM that transformers writes, it does not read.
LOADED = [each for each in MAIN if each[0] != "xLSTM"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Use one thread: models this small are slower with more."""
    torch.set_num_threads(1)


def built(name: str, variant: str = "", **options: Any) -> Any:
    """Return a model in float32 whose buffers that are not stored are those that its config determines."""
    model = make(name, variant, **options).float()
    fresh = dict(type(model)(model.config).named_buffers())
    stored = model.state_dict()
    for key, x in model.named_buffers():
        if key not in stored:
            x.copy_(fresh[key])
    return model


def steps(decoder: Any, rows: int = 2, time: int = 5) -> Any:
    return torch.stack([decoder.step(token) for token in tokens(rows, time).unbind(1)])


@pytest.mark.parametrize(("name", "variant"), LOADED, ids=lambda x: x)
def test_every_model(name: str, variant: str, tmp_path: Path) -> None:
    """Narrow experts, too, for which the products of stacks that a loaded model has by default are not defined."""
    model = built(name, variant)
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    loaded = decode.load(tmp_path, weights="int8", head="bf16")
    assert torch.equal(steps(loaded), steps(Decoder(model, weights="int8", head="bf16")))


def test_configs_that_other_packages_register_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As flash-linear-attention does for Mamba."""
    model = built("Mamba")
    model.save_pretrained(tmp_path)
    registered = transformers.models.auto.configuration_auto.CONFIG_MAPPING._extra_content
    monkeypatch.setitem(registered, "mamba", type("MambaConfig", (transformers.PretrainedConfig,), {}))
    assert torch.equal(steps(decode.load(tmp_path)), steps(Decoder(model)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_types_and_prompts(dtype: Any, tmp_path: Path) -> None:
    model = built("Qwen3_5")
    for x in model.parameters():
        x.data = x.data.to(dtype)
    model.save_pretrained(tmp_path)
    loaded, expected = decode.load(tmp_path, threads=1), Decoder(model)
    assert {x.format for x in loaded.report.layers} == {"bf16" if dtype == torch.bfloat16 else "f32"}
    assert torch.equal(loaded.prefill(tokens(2, 20)), expected.prefill(tokens(2, 20)))
    assert torch.equal(steps(loaded), steps(expected))
    assert not any(x.is_meta for x in (*loaded._model.parameters(), *loaded._model.buffers()))


def quantized_by_gptq(weight: Any, group: int) -> tuple[dict[str, Any], Any]:
    """Return the tensors of a layer in GPTQ's layout, symmetric 4 bits, and the numbers that they stand for."""
    N, K = weight.shape
    blocks = weight.view(N, K // group, group)
    scales = (blocks.abs().amax(-1) / 7).half()
    codes = (blocks / scales[..., None].float()).round().clamp(-8, 7).to(torch.int64).view(N, K)
    words = ((codes + 8).T.reshape(K // 8, 8, N) << (4 * torch.arange(8))[:, None]).sum(1)
    zeros = torch.full((K // group, N // 8), 0x77777777, dtype=torch.int64)  # 8, less 1
    order = torch.arange(K, dtype=torch.int32) // group
    tensors = {"qweight": _int32(words), "qzeros": _int32(zeros), "scales": scales.T.contiguous(), "g_idx": order}
    return tensors, codes.float() * scales.float().repeat_interleave(group, 1)


def _int32(words: Any) -> Any:
    return torch.from_numpy(words.numpy().astype(np.uint32).view(np.int32).copy())


def test_weights_that_are_quantized_are_not_rounded_again(tmp_path: Path) -> None:
    model = built("Lfm2", hidden_size=32, intermediate_size=64)
    state = {}
    for key, x in model.state_dict().items():
        if key.endswith("proj.weight") and "conv" not in key and x.shape[0] % 8 == 0:  # GPTQ has no others
            tensors, exact = quantized_by_gptq(x, 8)
            state |= {key.removesuffix("weight") + name: tensor for name, tensor in tensors.items()}
            x.copy_(exact)
        else:
            state[key] = x.clone()
    model.save_pretrained(tmp_path)
    safetensors.save_file({k: x for k, x in state.items() if k != "lm_head.weight"}, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = decode.load(tmp_path)
    assert "int4" in {x.format for x in loaded.report.layers}
    found, expected = steps(loaded), steps(Decoder(model))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"load: path must be a folder with config.json, got"):
        decode.load(tmp_path)
    model = built("Mamba")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = safetensors.load_file(file)
    for change, message in (
        (
            lambda s: s.pop("backbone.layers.1.norm.weight"),
            r"must have a tensor backbone.layers.1.norm.weight, got none",
        ),
        (lambda s: s.update(extra=torch.zeros(3)), r"must have tensors of a MambaForCausalLM, got extra too"),
        (
            lambda s: s.update({"backbone.layers.0.mixer.D": torch.zeros(3)}),
            r"backbone.layers.0.mixer.D must have shape \(40,\), got \(3,\)",
        ),
        (
            lambda s: s.update({"backbone.layers.0.mixer.in_proj.weight": torch.zeros(3, 3)}),
            r"backbone.layers.0.mixer.in_proj.weight must have shape \(80, 20\), got \(3, 3\)",
        ),
    ):
        changed = dict(state)
        change(changed)
        safetensors.save_file(changed, file)
        with pytest.raises(ValueError, match=r"load: .*" + message):
            decode.load(tmp_path)
    safetensors.save_file(state, file)
    with pytest.raises(ValueError, match=r"load: threads must be"):
        decode.load(tmp_path, threads=0)
    (tmp_path / "config.json").write_text('{"model_type": "mamba", "architectures": ["NoSuchModel"]}')
    with pytest.raises(TypeError, match=r"load: the config must name an architecture of transformers, got NoSuchModel"):
        decode.load(tmp_path)
