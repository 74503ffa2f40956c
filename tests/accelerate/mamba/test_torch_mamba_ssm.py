"""accelerate on layers with the code of mamba_ssm's, whose functions run only on GPUs.

The expected numbers are those of the same layers with the equations of these functions, step by step in float64;
originals.py runs mamba_ssm's own.
"""

from __future__ import annotations

import copy
import pickle
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from fastiter.torch import accelerate  # noqa: E402
from tests.accelerate.mamba.mamba_ssm_functions import EQUATIONS  # noqa: E402
from tests.support.reports import report_of, restored_names  # noqa: E402

selective_scan_fn: Any = None  # as in modules of users that import it


def load(name: str) -> Any:
    spec = spec_from_file_location(name, Path(__file__).parent / "mamba_ssm_layers.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    return load("mamba_ssm")


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the layers with the equations."""
    monkeypatch.setitem(sys.modules, "equations", None)
    module = load("equations")
    vars(module).update(EQUATIONS)
    return module


SIMPLE = {"d_state": 6, "headdim": 4}
MAMBA2 = {**SIMPLE, "ngroups": 2, "chunk_size": 4}
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Mamba": ("Mamba", {"d_state": 5}),
    "Mamba2": ("Mamba2", MAMBA2),
    "Mamba2 beside a gated MLP": ("Mamba2", {**MAMBA2, "d_ssm": 8, "D_has_hdim": True, "dt_limit": (0.1, 1.0)}),
    "Mamba2 in parts": ("Mamba2", {**MAMBA2, "use_mem_eff_path": False}),
    "Mamba2 without norm": ("Mamba2", {**MAMBA2, "use_mem_eff_path": False, "rmsnorm": False}),
    "Mamba2Simple": ("Mamba2Simple", {**SIMPLE, "learnable_init_states": True}),
    "Mamba2Simple in parts": ("Mamba2Simple", {**SIMPLE, "use_mem_eff_path": False}),
}


def make(module: Any, name: str, dtype: Any = torch.float64, **options: Any) -> Any:
    torch.manual_seed(0)
    of, how = LAYERS[name]
    return getattr(module, of)(8, **how, **options).to(dtype)


def model_of(module: Any, name: str = "Mamba", dtype: Any = torch.float64, **norms: bool) -> Any:
    torch.manual_seed(0)
    of, how = LAYERS[name]
    mixers = [getattr(module, of)(8, **how, layer_idx=i) for i in range(2)]
    norms = {"rms_norm": True, "fused": True, **norms}
    return module.MambaLMHeadModel(module.MixerModel(8, mixers, 20, **norms)).to(dtype)


def randn(*shape: int) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def results(layer: Any, x: Any, **options: Any) -> list[Any]:
    """Return the output and the gradients of the input and of all parameters."""
    x = x.to(next(layer.parameters()).dtype).requires_grad_()
    y = layer(x, **options)
    return [y.detach(), *torch.autograd.grad((y * randn(*y.shape).to(y.dtype)).sum(), [x, *layer.parameters()])]


def close(found: Any, expected: Any, tolerance: float) -> None:
    for a, e in zip(found, expected, strict=True):
        assert (a.double() - e).norm() <= tolerance * e.norm()


@pytest.mark.parametrize("name", LAYERS)
def test_a_sequence_and_its_gradients(name: str, theirs: Any, exact: Any) -> None:
    expected = results(make(exact, name), randn(2, 9, 8))
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 2e-5)):  # weights are rounded to float32 in both
        layer = make(theirs, name, dtype)
        with pytest.raises(RuntimeError, match="needs a GPU"):
            layer(randn(2, 9, 8).to(dtype))
        report = report_of(accelerate, layer)
        assert not report.left and "by fastiter.torch.compat.mamba_ssm." in report.accelerated[""]
        found = results(layer, randn(2, 9, 8))
        close(found, expected, tolerance)
    state = layer.state_dict()
    assert all(torch.equal(state[key], x) for key, x in make(theirs, name, dtype).state_dict().items())
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(results(copied, randn(2, 9, 8))[0], found[0])
    assert restored_names(layer) == list(report.accelerated) and type(layer) is getattr(theirs, LAYERS[name][0])
    with pytest.raises(RuntimeError, match="needs a GPU"):
        layer(randn(2, 9, 8).to(dtype))


@pytest.mark.parametrize("name", LAYERS)
def test_empty_batches_and_single_steps(name: str, theirs: Any, exact: Any) -> None:
    layer, x = accelerate(make(theirs, name)), randn(2, 9, 8)
    assert layer(x[:0]).shape == (0, 9, 8)
    close([layer(x[:, :1])], [make(exact, name)(x[:, :1])], 1e-6)


@pytest.mark.parametrize("name", ["Mamba2", "Mamba2 in parts", "Mamba2Simple"])
def test_packed_sequences(name: str, theirs: Any, exact: Any) -> None:
    labels = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2]], dtype=torch.int32)
    layer = accelerate(make(theirs, name))
    found = results(layer, randn(1, 9, 8), seq_idx=labels)
    close(found, results(make(exact, name), randn(1, 9, 8), seq_idx=labels), 1e-6)


STEPWISE = ["Mamba", "Mamba2", "Mamba2 without norm"]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", STEPWISE)
def test_steps_with_a_cache(name: str, missing: bool, theirs: Any, exact: Any) -> None:
    """A prompt and steps give the logits of the whole sequence, and the states of the equations."""
    if missing:  # the package causal_conv1d
        vars(theirs).update(dict.fromkeys(("causal_conv1d_fn", "causal_conv1d_update", "causal_conv1d_varlen_states")))
    ours, expected = accelerate(model_of(theirs, name)), model_of(exact, name)
    x = torch.arange(24).view(2, 12) % 20
    params = [module.InferenceParams() for module in (theirs, exact)]
    with torch.no_grad():
        whole = expected(x).logits
        close([ours(x).logits], [whole], 1e-6)
        logits = []
        for part in x.split([2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], 1):
            found, wanted = (m(part, inference_params=p).logits for m, p in zip((ours, expected), params, strict=True))
            close([found], [wanted], 1e-6)
            logits.append(found)
            for p in params:
                p.seqlen_offset += part.shape[1]
        close([torch.cat(logits, 1)], [whole], 1e-6)
    for i in range(2):
        close(params[0].key_value_memory_dict[i], params[1].key_value_memory_dict[i], 1e-6)


def test_states_of_packed_sequences(theirs: Any, exact: Any) -> None:
    states, bounds = [], torch.tensor([0, 4, 9], dtype=torch.int32)
    labels = torch.tensor([[0] * 4 + [1] * 5], dtype=torch.int32)
    for layer in (accelerate(make(theirs, "Mamba2", layer_idx=0)), make(exact, "Mamba2", layer_idx=0)):
        params = theirs.InferenceParams()
        y = layer(randn(1, 9, 8), seq_idx=labels, cu_seqlens=bounds, inference_params=params)
        states.append([y, *params.key_value_memory_dict[0]])
    close(*states, 1e-6)


@pytest.mark.parametrize("norms", [{}, {"fused": False}, {"fused": False, "rms_norm": False}, {"rms_norm": False}])
def test_a_model(norms: dict[str, bool], theirs: Any, exact: Any) -> None:
    x = torch.arange(18).view(2, 9)
    logits = []
    for model in (accelerate(model_of(theirs, **norms)), model_of(exact, **norms)):
        y = model(x).logits
        logits.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
    close(*logits, 1e-6)


def test_generation(theirs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = accelerate(model_of(theirs, dtype=torch.float32))
    x = torch.arange(6).view(2, 3)
    tokens = model.generate(x, max_length=9, enable_timing=True)
    assert capsys.readouterr().out.startswith("decoding time: ")
    with torch.no_grad():
        assert torch.equal(model(tokens[:, :-1]).logits.argmax(-1)[:, 2:], tokens[:, 3:])
    assert "" in restored_names(model)


def test_a_model_in_bfloat16(theirs: Any, exact: Any) -> None:
    model, x = accelerate(model_of(theirs, dtype=torch.bfloat16)), torch.arange(18).view(2, 9)
    with torch.no_grad():
        logits = model(x).logits
        params = theirs.InferenceParams()
        model(x[:, :8], inference_params=params)
        params.seqlen_offset = 8
        last = model(x[:, 8:], inference_params=params).logits
        expected = model_of(exact)(x).logits
    assert logits.dtype == last.dtype == torch.bfloat16
    close([logits, last], [expected, expected[:, 8:]], 0.05)


def test_other_devices_use_the_original_path(theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If causal_conv1d is missing, the layer's path on a GPU is the one without it."""
    theirs.causal_conv1d_fn = theirs.causal_conv1d_update = None
    layer, x = accelerate(make(theirs, "Mamba")), randn(2, 9, 8)
    layer(x)
    monkeypatch.setattr("fastiter.accelerate._torch.functions.on_cpu", lambda _: False)
    with pytest.raises(RuntimeError, match="selective_scan_fn needs a GPU"):
        layer(x)


def test_torch_compile(theirs: Any) -> None:
    theirs.causal_conv1d_fn = None
    layer, x = accelerate(make(theirs, "Mamba")), randn(2, 9, 8)
    with torch.no_grad():
        assert torch.equal(torch.compile(layer, backend="eager", fullgraph=True)(x), layer(x))


class Mixer(nn.Module):
    """A user's module that calls a function of mamba_ssm."""

    def __init__(self) -> None:
        super().__init__()
        self.A, self.D = nn.Parameter(-torch.rand(8, 3)), nn.Parameter(torch.randn(8))

    def forward(self, x: Any) -> Any:
        B, C = x[:, :3], x[:, 3:6]
        return selective_scan_fn(x, x, self.A, B, C, self.D, z=x, delta_bias=self.D, delta_softplus=True)


def test_a_module_that_imports_a_function(theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module, x = Mixer().double(), randn(2, 8, 9)
    monkeypatch.setitem(globals(), "selective_scan_fn", EQUATIONS["selective_scan_fn"])
    expected = results(module, x)
    monkeypatch.setitem(globals(), "selective_scan_fn", theirs.selective_scan_fn)
    report = report_of(accelerate, module)
    name = "selective_scan_fn"
    assert report.accelerated == {"": f"Mixer, {name} by fastiter.torch.compat.mamba_ssm.{name}"}
    close(results(module, x), expected, 1e-12)


def test_other_signatures_and_names(theirs: Any) -> None:
    def selective_scan_fn(u, delta, B, A, C):
        raise AssertionError

    selective_scan_fn.__module__ = "mamba_ssm"
    theirs.selective_scan_fn = selective_scan_fn
    layer = make(theirs, "Mamba")
    report = report_of(accelerate, layer)
    assert report.left == {"": "its selective_scan_fn has the parameters u, delta, B, A, C, not u, delta, A, B, C, D, "
                           "z, delta_bias, delta_softplus, return_last_state, ..."}  # fmt: skip
    assert type(layer) is theirs.Mamba


def test_a_function_that_a_user_has_installed(theirs: Any, exact: Any) -> None:
    name = "mamba_split_conv1d_scan_combined"
    vars(theirs)[name] = EQUATIONS[name]
    layer, x = make(theirs, "Mamba2Simple"), randn(2, 9, 8)
    report = report_of(accelerate, layer)
    assert name not in report.accelerated[""] and "mamba_chunk_scan_combined" in report.accelerated[""]
    assert torch.equal(layer(x), make(exact, "Mamba2Simple")(x))
