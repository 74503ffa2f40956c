"""accelerate on whole models: the same results, gradients and tokens; restore gives the original bits."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from fastiter.torch import accelerate, restore  # noqa: E402
from tests.accelerate.models import OPTIONS, make, task, tokens  # noqa: E402
from tests.support.reports import report_of, restored_names  # noqa: E402

KERNEL, IN_TORCH = "a kernel of fastiter", "operations of torch"
CONV = {"causal_conv1d_update": "ssm.causal_conv1d_update", "causal_conv1d_fn": "ssm.causal_conv1d"}
MAMBA = {
    **CONV,
    "mamba_selective_state_update": "ssm.selective_state_update",
    "mamba_selective_scan": "ssm.selective_scan",
}
MAMBA2 = {
    **CONV,
    "mamba2_selective_state_update": "ssm.selective_state_update",
    "mamba2_chunk_scan": "ssm.ssd",
}
DELTA = {**CONV, "torch_recurrent_gated_delta_rule": "delta_scan", "torch_chunk_gated_delta_rule": "delta_scan"}
KIMI = {
    **CONV,
    "recurrent_kimi_delta_attention": "compat.fla.chunk_kda",
    "chunk_kimi_delta_attention": "compat.fla.chunk_kda",
}
SWAPPED = {
    "Mamba": ("backbone.layers.{}.mixer: MambaMixer", [0, 1], MAMBA),
    "FalconMamba": ("backbone.layers.{}.mixer: FalconMambaMixer", [0, 1], MAMBA),
    "Jamba": ("model.layers.{}.mamba: JambaMambaMixer", [0], MAMBA),
    "Zamba": ("model.layers.{}mamba: ZambaMambaMixer", ["0.", "1.mamba_decoder.", "2.mamba_decoder."], MAMBA),
    "RecurrentGemma": (
        "model.layers.{}.temporal_block.rg_lru: RecurrentGemmaRglru",
        [0, 1],
        {"forward": IN_TORCH, "_rnn_scan": "linear_scan"},
    ),
    "Qwen3Next": ("model.layers.{}.linear_attn: Qwen3NextGatedDeltaNet", [0, 1], DELTA),
    "Qwen3_5": ("model.layers.{}.linear_attn: Qwen3_5GatedDeltaNet", [0, 1], DELTA),
    "OlmoHybrid": ("model.layers.{}.linear_attn: OlmoHybridGatedDeltaNet", [0, 1], DELTA),
    "Mamba2": ("backbone.layers.{}.mixer: Mamba2Mixer", [0, 1], MAMBA2),
    "Bamba": ("model.layers.{}.mamba: BambaMixer", [0], MAMBA2),
    "FalconH1": ("model.layers.{}.mamba: FalconH1Mixer", [0, 1], MAMBA2),
    "GraniteMoeHybrid": ("model.layers.{}.mamba: GraniteMoeHybridMambaLayer", [0], MAMBA2),
    "NemotronH": ("model.layers.{}.mixer: NemotronHMamba2Mixer", [0, 2], MAMBA2),
    "Zamba2": ("model.layers.{}mamba: Zamba2MambaMixer", ["0.", "1.mamba_decoder.", "2."], MAMBA2),
    "KimiLinear": ("model.layers.{}.self_attn: KimiLinearDeltaAttention", [0, 1], KIMI),
    "MiniMax": (
        "model.layers.{}.self_attn: MiniMaxLightningAttention",
        [0, 2],
        {"forward": "ssm.linear_attention"},
    ),
    "xLSTM": ("backbone.blocks.{}.mlstm_layer.mlstm_backend: xLSTMBackend", [0, 1], {"forward": "ssm.mlstm"}),
    "Rwkv": ("rwkv.blocks.{}.attention: RwkvSelfAttention", [0, 1], {"rwkv_linear_attention": KERNEL}),
    "Lfm2": ("model.layers.{}.conv: Lfm2ShortConv", [0, 1], CONV),
}
SAME_BITS = ("RecurrentGemma",)
WHOLE = ("Mamba", "FalconMamba", "Jamba", "Qwen3Next", "Qwen3_5", *(x for x in SWAPPED if SWAPPED[x][2] is MAMBA2))

every_model = pytest.mark.parametrize("name", OPTIONS)


@pytest.fixture(autouse=True)
def steps_of_the_delta_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers run the delta rule step by step: its chunks lose digits if the decay is strong."""
    for name in ("qwen3_next", "qwen3_5", "olmo_hybrid"):
        module = __import__(f"transformers.models.{name}.modeling_{name}", fromlist=["x"])
        monkeypatch.setattr(module, "torch_chunk_gated_delta_rule", _by_steps(module.torch_recurrent_gated_delta_rule))
    module = __import__("transformers.models.kimi_linear.modeling_kimi_linear", fromlist=["x"])
    monkeypatch.setattr(module, "chunk_kimi_delta_attention", _kimi_by_steps(module.recurrent_kimi_delta_attention))


def _kimi_by_steps(rule: Any) -> Any:
    def chunk_kimi_delta_attention(
        query: Any,
        key: Any,
        value: Any,
        g: Any,
        beta: Any,
        initial_state: Any = None,
        output_final_state: bool = False,
        **options: Any,
    ) -> Any:
        return rule(query, key, value, g, beta, initial_state, output_final_state, **options)

    return chunk_kimi_delta_attention


def _by_steps(rule: Any) -> Any:
    def torch_chunk_gated_delta_rule(
        query: Any, key: Any, value: Any, g: Any, beta: Any, chunk_size: int = 64, **options: Any
    ) -> Any:
        return rule(query, key, value, g, beta, **options)

    return torch_chunk_gated_delta_rule


def results(model: Any) -> dict[str, Any]:
    """Return the logits and the gradients of all parameters, with a padded row."""
    x, options = task(model)
    mask = torch.ones_like(x)
    mask[1, :4] = 0
    model.zero_grad()
    logits = model(x, attention_mask=mask, **options).logits
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(logits)
    (logits * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **gradients}


def assert_as_good(ours: dict[str, Any], theirs: dict[str, Any], exact: dict[str, Any]) -> None:
    """Check that our error, relative to the results in float64, is about as large as theirs."""
    assert ours.keys() == theirs.keys()
    for name, expected in exact.items():
        bound = 3 * (theirs[name] - expected).norm() + 8 * torch.finfo(ours[name].dtype).eps * expected.norm()
        assert (ours[name] - expected).norm() <= bound, name


@every_model
def test_results_gradients_and_report(name: str) -> None:
    theirs, exact = results(make(name)), results(make(name).double())
    model, report = accelerate(make(name), return_report=True)
    path, layers, swapped = SWAPPED[name]
    names = {
        function: ours if ours in (KERNEL, IN_TORCH) else f"fastiter.torch.{ours}" for function, ours in swapped.items()
    }
    functions = ", ".join(f"{function} by {ours}" for function, ours in names.items())
    whole = " as a whole" if name in WHOLE else ""
    module, _, kind = path.partition(": ")
    places = dict.fromkeys(module.format(f"*{str(layer).lstrip('0123456789')}") for layer in layers)
    several = f"{len(layers)} modules, {', '.join(places)}: {kind}"
    place = path.format(*layers) if len(layers) == 1 else several
    assert str(report) == f"accelerated {place}{whole}, {functions}"
    ours = results(model)
    if name in SAME_BITS:
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert any(not torch.equal(ours[key], theirs[key]) for key in theirs) == (name not in SAME_BITS)
    assert_as_good(ours, theirs, exact)


@every_model
def test_training_mode_float64_and_restore(name: str) -> None:
    expected = results(make(name).double().train())
    model = accelerate(make(name).double().train())
    assert model.training
    ours = results(model)
    if name in SAME_BITS:
        assert all(torch.equal(ours[key], x) for key, x in expected.items())
    for key, x in expected.items():  # transformers rounds some factors to float32 in models of every dtype
        assert (ours[key] - x).norm() <= 2**-20 * x.norm(), key
    restored = report_of(restore, model)
    assert len(restored.restored) == len(SWAPPED[name][1]) and not restored.left
    again = results(model)
    assert all(torch.equal(again[key], expected[key]) for key in expected)
    assert restored_names(model) == []


@every_model
def test_the_same_tokens(name: str) -> None:
    x = tokens(2, 6)
    how = {"attention_mask": torch.ones_like(x), "max_new_tokens": 12, "do_sample": False}
    expected = make(name).generate(x, **how)
    model = accelerate(make(name))
    assert torch.equal(model.generate(x, **how), expected)
    assert torch.equal(copy.deepcopy(model).generate(x, **how), expected)


@every_model
def test_bfloat16(name: str) -> None:
    x = tokens(2, 33)
    with torch.no_grad():
        exact = make(name).bfloat16().float()(x).logits  # the same weights
        theirs = make(name).bfloat16()(x).logits
        ours = accelerate(make(name).bfloat16())(x).logits
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours, theirs) or name not in SAME_BITS
    assert (ours - exact).norm() <= 1.5 * (theirs - exact).norm()


def test_transformers_is_not_imported_by_fastiter() -> None:
    import subprocess

    script = "import fastiter.torch, sys; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
