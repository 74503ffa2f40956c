"""python -m tests.accelerate.originals [FOLDER]: accelerate on the layers and models of mamba_ssm itself.

Its sources are downloaded into a temporary folder, or into FOLDER, where they are found the next time; compiled parts
are omitted. The expected numbers are those of the same code with the equations of its functions, step by step. No test
does this, as it needs the network.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from fastiter.torch import accelerate, restore
from tests.accelerate.mamba.mamba_ssm_functions import EQUATIONS
from tests.ssm.originals import fetch, report

_MAMBA = {"layer": "Mamba1", "d_state": 8}
_MAMBA2 = {"layer": "Mamba2", "d_state": 8, "headdim": 8, "ngroups": 2, "chunk_size": 4}
MODELS: dict[str, dict[str, Any]] = {
    "Mamba": {"ssm_cfg": _MAMBA},
    "Mamba with norms of torch": {"ssm_cfg": _MAMBA, "rms_norm": False, "fused_add_norm": False},
    "Mamba2": {"ssm_cfg": _MAMBA2},
    "Mamba2 in parts": {"ssm_cfg": {**_MAMBA2, "use_mem_eff_path": False}, "fused_add_norm": False},
    "Mamba2 without norm": {"ssm_cfg": {**_MAMBA2, "rmsnorm": False}, "rms_norm": False},
    "Mamba2 and gated MLPs": {"ssm_cfg": {**_MAMBA2, "d_ssm": 16, "dt_limit": (0.1, 1.0)}, "d_intermediate": 24},
}
SIMPLE = ({"learnable_init_states": True}, {"use_mem_eff_path": False})
_OF_CAUSAL_CONV1D = ("causal_conv1d_fn", "causal_conv1d_update", "causal_conv1d_varlen_states")


def modules(folder: Path, missing: bool) -> dict[str, Any]:
    """Import the sources again, with or without causal_conv1d."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mamba_ssm", "causal_conv1d")]:
        del sys.modules[name]
    fetch(folder)
    if missing:
        sys.modules["causal_conv1d"] = None  # type: ignore[assignment]
    else:
        package: Any = sys.modules["causal_conv1d"]
        vars(package).update(vars(importlib.import_module("causal_conv1d.causal_conv1d_interface")))
    paths = {
        "simple": "modules.mamba2_simple",
        "model": "models.mixer_seq_simple",
        "generation": "utils.generation",
    }
    return {name: importlib.import_module(f"mamba_ssm.{path}") for name, path in paths.items()}


def put_equations() -> None:
    """Put the equations into the modules that have been imported."""
    for name, module in sys.modules.items():
        if name.startswith("mamba_ssm."):
            vars(module).update({key: f for key, f in EQUATIONS.items() if key in vars(module)})


def made(theirs: dict[str, Any], options: dict[str, Any], dtype: Any) -> Any:
    torch.manual_seed(0)
    how = {"rms_norm": True, "fused_add_norm": True, "residual_in_fp32": False, "d_intermediate": 0, **options}
    config = theirs["model"].MambaConfig(d_model=16, n_layer=2, vocab_size=40, **how)
    model = theirs["model"].MambaLMHeadModel(config)
    for name, p in model.named_parameters():
        if p.dim() == 2 and not name.endswith("A_log"):
            torch.nn.init.normal_(p, std=0.3)
    return model.to(dtype)


def outputs(theirs: dict[str, Any], model: Any) -> list[Any]:
    """Return logits, gradients, and the logits of a prompt and steps with their states."""
    x = torch.arange(24).view(2, 12)
    logits = model(x).logits
    found = [logits.detach(), *torch.autograd.grad(logits.square().sum(), list(model.parameters()))]
    params = theirs["generation"].InferenceParams(max_seqlen=12, max_batch_size=2)
    with torch.no_grad():
        for part in x.split([3, *[1] * 9], 1):
            found.append(model(part, inference_params=params).logits)
            params.seqlen_offset += part.shape[1]
    return found + [state for i in range(2) for state in params.key_value_memory_dict[i]]


def accelerated(model: Any) -> Any:
    model, found = accelerate(model, return_report=True)
    assert found.accelerated and not found.left, found
    return model


def check(folder: Path, missing: bool) -> None:
    theirs = modules(folder, missing)
    ours = {}
    for name, options in MODELS.items():
        for dtype in (torch.float32, torch.float64):
            model = accelerated(made(theirs, options, dtype))
            ours[name, dtype] = outputs(theirs, model)
        x = torch.arange(6).view(2, 3)
        tokens = model.generate(x, max_length=9).clone()
        assert torch.equal(model(tokens[:, :-1]).logits.argmax(-1)[:, 2:], tokens[:, 3:]), name
        try:
            restore(model)(x)
        except Exception as error:  # an error of its kernels
            print(f"{name}: restored, {type(error).__name__}")
        else:
            raise AssertionError(f"{name}: it runs on the CPU when it is restored")
    x = torch.randn(2, 9, 16)
    simple = []
    for options in SIMPLE:
        torch.manual_seed(0)
        layer = theirs["simple"].Mamba2Simple(16, d_state=8, headdim=8, **options)
        simple.append((accelerated(layer)(x).detach(), restore(layer)))
    put_equations()
    for (name, dtype), found in ours.items():
        expected = outputs(theirs, made(theirs, MODELS[name], torch.float64))
        largest = max(float((a - e).norm() / e.norm()) for a, e in zip(found, expected, strict=True))
        report(f"{name}, {dtype}, causal_conv1d {'missing' if missing else 'present'}", largest, 1e-4)
    for found, layer in simple:
        expected = layer.double()(x.double()).detach()
        report("Mamba2Simple", float((found - expected).norm() / expected.norm()))


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        for missing in (False, True):
            check(Path(sys.argv[1] if sys.argv[1:] else temporary), missing)


if __name__ == "__main__":
    main()
