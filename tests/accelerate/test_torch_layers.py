"""accelerate on single layers of larger models of transformers, and the table of models in the documentation."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import fastiter.torch  # noqa: E402
from fastiter.accelerate._torch import models, rules  # noqa: E402
from fastiter.torch import accelerate  # noqa: E402
from tests.accelerate.models import OPTIONS  # noqa: E402
from tests.accelerate.test_torch_models import CONV, DELTA, KIMI  # noqa: E402
from tests.support.reports import restored_names  # noqa: E402

WIDTH = 16
_DELTA = {
    "hidden_size": WIDTH,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 8,
}
_KIMI = {"hidden_size": WIDTH, "linear_num_heads": 2, "linear_head_dim": 8}
#: By model: the layer's class, the options of its config or its arguments, and what replaces its functions
LAYERS: dict[str, tuple[str, dict[str, Any] | tuple[int, ...], dict[str, str]]] = {
    "Qwen3_5Moe": ("GatedDeltaNet", _DELTA, DELTA),
    "Qwen4Exp": ("TextGatedDeltaNet", _DELTA, DELTA),
    "LaraMini": ("GatedDeltaNet", _DELTA, DELTA),
    "BailingHybrid": ("DeltaAttention", _KIMI, KIMI),
    "Glm5Next": ("TextLinearAttention", _KIMI, KIMI),
    "Inkling": ("ShortConvolution", (WIDTH, 4, 0, 0), CONV),
    "Inkling2": ("ShortConvolution", (WIDTH, 4, 0, 0), CONV),
    "Inkling2Loop": ("ShortConvolution", (WIDTH, 4, 0, 0), CONV),
    "Lfm2Moe": ("ShortConv", {"hidden_size": WIDTH, "layer_types": ["conv"], "num_hidden_layers": 1}, CONV),
    "Lfm3": ("ShortConv", {"hidden_size": WIDTH}, CONV),
}


def module_of(name: str) -> str:
    folder = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return f"transformers.models.{folder}.modeling_{folder}"


def layer_of(name: str) -> Any:
    kind, given, _ = LAYERS[name]
    of = getattr(import_module(module_of(name)), name + kind)
    if isinstance(given, tuple):
        layer = of(*given)
    else:
        ends = [end for end in ("TextConfig", "Config") if hasattr(transformers, name + end)]
        layer = of(getattr(transformers, name + ends[0])(**given), 0)
    torch.manual_seed(0)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return layer.eval()


def results(layer: Any, dtype: Any) -> list[Any]:
    x = torch.randn(2, 21, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    y = layer(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(name: str) -> None:
    pytest.importorskip(module_of(name), reason="this version of transformers does not have it")
    theirs, exact = results(layer_of(name), torch.float32), results(layer_of(name).double(), torch.float64)
    layer, report = accelerate(layer_of(name), return_report=True)
    found = dict(part.split(" by fastiter.torch.") for part in report.accelerated[""].split(", ")[1:])
    assert found == LAYERS[name][2] and not report.left
    assert (" as a whole" in report.accelerated[""]) == (LAYERS[name][2] is DELTA)
    for ours, other, e in zip(results(layer, torch.float32), theirs, exact, strict=True):
        bound = 4 * (other - e).norm() + 16 * torch.finfo(torch.float32).eps * e.norm()
        assert (ours - e).norm() <= bound
    assert restored_names(layer) == [""]


# ---- The table of models --------------------------------------------------------------------------------------------

#: Names in the table that differ from those of transformers' classes
SPELT = {"Qwen3-Next": "Qwen3Next", "Qwen3.5": "Qwen3_5", "Qwen3.5-MoE": "Qwen3_5Moe", "RWKV-4": "Rwkv"}


def test_the_table_is_that_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs/accelerate/models.md").read_text()
    assert f"\n\n{models.table()}\n\n" in text


def test_every_rule_is_in_the_table() -> None:
    shown = {name for row in models.ROWS if not row.by for name in row.functions.split(", ")}
    of_classes = {f"{of}.{method}" for of, methods in rules.CLASSES.items() for method in methods}
    methods = {"_rnn_scan", "MambaBlock.selective_scan", "MambaBlock.selective_scan_seq"}
    assert {name.rpartition(".")[2] for name in methods} == set(rules.METHODS)
    aliases = {"torch_causal_conv1d_update"}  # a former name of causal_conv1d_update
    known = {name for name, rule in rules.GLOBALS.items() if rule.by is not None} - aliases
    assert shown == known | of_classes | methods


def test_every_model_of_transformers_in_the_table_is_tested() -> None:
    named = [row.models for row in models.ROWS if "(transformers" in row.models]
    parts = [name for text in named for name in text.removeprefix("all of these, and ").partition(" (")[0].split(", ")]
    assert {SPELT.get(name, name) for name in parts} == {*OPTIONS, *LAYERS}


def test_what_computes_them_exists() -> None:
    for name in {name for row in models.ROWS for name in models.computed_by(row)} - {rules.KERNEL, "torch operations"}:
        found = fastiter.torch
        for part in name.split("."):
            found = getattr(found, part)
        assert found is not fastiter.torch
