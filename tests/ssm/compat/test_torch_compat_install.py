"""fastiter.torch.compat.install: other libraries' names resolve to fastiter, until uninstall."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastiter.torch import compat  # noqa: E402

NAMES = ("causal_conv1d", "fla", "mamba_ssm", "mlstm_kernels")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    compat.uninstall()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stub library with one of the names and a submodule, already imported."""
    (tmp_path / "causal_conv1d").mkdir()
    (tmp_path / "causal_conv1d/__init__.py").write_text("causal_conv1d_fn = 'theirs'")
    (tmp_path / "causal_conv1d/own.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "causal_conv1d"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.import_module("causal_conv1d.own")
    yield importlib.import_module("causal_conv1d")
    for name in ("causal_conv1d", "causal_conv1d.own"):
        sys.modules.pop(name, None)


def test_imports() -> None:
    assert compat.install(*NAMES, force=True) == NAMES
    import mamba_ssm.ops.triton.ssd_combined as combined
    from causal_conv1d import causal_conv1d_fn
    from causal_conv1d.causal_conv1d_varlen import causal_conv1d_varlen_states
    from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn, selective_scan_fn
    from mamba_ssm.ops.triton.layer_norm import RMSNorm, layer_norm_fn
    from mamba_ssm.ops.triton.layernorm_gated import RMSNorm as RMSNormGated
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update
    from mlstm_kernels.torch import get_mlstm_kernel

    ours = compat.mamba_ssm
    assert causal_conv1d_fn is compat.causal_conv1d.causal_conv1d_fn
    assert causal_conv1d_varlen_states is compat.causal_conv1d.causal_conv1d_varlen_states
    assert selective_scan_fn is ours.selective_scan_fn and mamba_inner_fn is ours.mamba_inner_fn
    assert RMSNormGated is ours.RMSNormGated and RMSNorm is ours.RMSNorm and layer_norm_fn is ours.layer_norm_fn
    assert combined.mamba_chunk_scan_combined is ours.mamba_chunk_scan_combined
    assert selective_state_update is ours.selective_state_update
    assert get_mlstm_kernel("chunkwise--native_autograd") is compat.mlstm_kernels.mlstm_chunkwise
    theirs = get_mlstm_kernel("chunkwise--native_custbw")  # whose backward pass ignores the divisor
    assert theirs.func is compat.mlstm_kernels.mlstm_chunkwise and theirs.keywords == {"normalizer_gradient": False}
    with pytest.raises(ValueError, match=r"^get_mlstm_kernel: name must be one of 'chunkwise--fastiter'.*, got 'x'"):
        get_mlstm_kernel("x")
    ops = importlib.import_module("fla.ops")
    for name in compat.fla.__all__:
        assert name == "register" or getattr(ops, name) is getattr(compat.fla, name)


def test_modules_are_found_and_name_missing_functions() -> None:
    compat.install(*NAMES, force=True)
    for path in ("mamba_ssm", "mamba_ssm.ops.triton.layer_norm", "fla.ops.generalized_delta_rule.dplr"):
        spec = importlib.util.find_spec(path)
        module = importlib.import_module(path)
        assert spec is not None and module.__spec__ is spec and spec.origin == "fastiter"
    mamba_ssm = importlib.import_module("mamba_ssm")
    assert mamba_ssm.__version__.endswith("+fastiter") and not hasattr(mamba_ssm, "__file__")
    lacks = "^module 'mamba_ssm' is fastiter's, which does not have 'Mamba2'; it has mamba_inner_fn, ops, "
    with pytest.raises(AttributeError, match=lacks):
        _ = mamba_ssm.Mamba2
    with pytest.raises(ImportError, match="cannot import name 'Mamba2' from 'mamba_ssm'"):
        exec("from mamba_ssm import Mamba2")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'mamba_ssm\.modules'"):
        importlib.import_module("mamba_ssm.modules.mamba2")


def test_a_library_is_hidden_only_by_force_and_comes_back(installed: Any) -> None:
    with pytest.raises(ValueError, match=r"^install: causal_conv1d must not be installed unless force=True"):
        compat.install("mamba_ssm", "causal_conv1d")
    assert "mamba_ssm" not in sys.modules  # refused before any change
    assert "causal_conv1d" not in compat.install()
    assert compat.uninstall("causal_conv1d") == ()
    assert compat.install("causal_conv1d", force=True) == ("causal_conv1d",)
    assert compat.install("causal_conv1d") == () and "mamba_ssm" in sys.modules
    assert importlib.import_module("causal_conv1d").causal_conv1d_fn is compat.causal_conv1d.causal_conv1d_fn
    assert "causal_conv1d.own" not in sys.modules
    assert compat.uninstall("causal_conv1d", "mamba_ssm") == ("causal_conv1d", "mamba_ssm")
    assert sys.modules["causal_conv1d"] is installed and "causal_conv1d.own" in sys.modules
    assert not any(name.partition(".")[0] == "mamba_ssm" for name in sys.modules)


def test_wrong_names_are_refused() -> None:
    for function in (compat.install, compat.uninstall):
        with pytest.raises(ValueError, match=f"^{function.__name__}: names must be among 'causal_conv1d', .*, got 'x'"):
            function("x")
        with pytest.raises(TypeError, match=f"^{function.__name__}: names must be str, got list"):
            function(["fla"])
    with pytest.raises(TypeError, match=r"^install: force must be a bool, got int"):
        compat.install(force=1)


def logits_and_gradients(module: Any, name: str, options: dict[str, Any]) -> list[Any]:
    """Logits and gradients of a small model whose class is in this transformers module, and the tokens it generates."""
    torch.manual_seed(0)
    config = getattr(module, f"{name}Config")(
        hidden_size=16, num_hidden_layers=1, vocab_size=11, state_size=4, **options
    )
    model = getattr(module, f"{name}ForCausalLM")(config)
    tokens = torch.arange(22).reshape(2, 11) % 11
    logits = model(tokens).logits
    logits.square().mean().backward()
    written = model.generate(tokens, max_new_tokens=4, do_sample=False)
    return [logits.detach(), *(p.grad for p in model.parameters()), written]


@pytest.mark.parametrize(
    ("name", "options"), [("Mamba", {}), ("Mamba2", {"num_heads": 4, "head_dim": 8, "n_groups": 2, "chunk_size": 8})]
)
def test_models_of_transformers_take_the_functions(name: str, options: dict[str, Any]) -> None:
    pytest.importorskip("transformers", minversion="5.15")
    path = f"transformers.models.{name.lower()}.modeling_{name.lower()}"
    own = importlib.import_module(path)
    compat.install("mamba_ssm", "causal_conv1d", force=True)
    spec = importlib.util.spec_from_file_location(f"{path}_again", own.__file__)
    assert spec is not None and spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = again
    try:
        spec.loader.exec_module(again)
        decorated = [f for f in vars(again).values() if inspect.isfunction(f)]
        inside = [cell.cell_contents for f in decorated for cell in f.__closure__ or ()]
        assert any(f is compat.mamba_ssm.selective_state_update for f in inside)
        assert any(f is compat.causal_conv1d.causal_conv1d_fn for f in inside)
        found = logits_and_gradients(again, name, options)
    finally:
        del sys.modules[spec.name]
    for a, e in zip(found, logits_and_gradients(own, name, options), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-3, atol=1e-5)
