"""python -m tests.ssm.originals [FOLDER]: compat against the reference functions of mamba_ssm and causal_conv1d.

Their sources are downloaded into a temporary folder, or into FOLDER, where they are reused the next time. They cannot
be installed without CUDA, so the files with their reference functions are imported without the packages' own __init__,
and compiled modules are left out. pip runs their setup.py, which imports the package wheel. No test does this, as it
needs the network.
"""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
import tarfile
import tempfile
import types
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch

from fastiter.torch import compat
from tests.ssm.mixer_calls import chunk_inputs, inner_inputs, scan_inputs, split_inputs

PACKAGES = {"mamba_ssm": "2.3.2.post1", "causal_conv1d": "1.6.1"}
Call = Callable[..., Any]


def fetch(folder: Path) -> None:
    """Download and unpack the sources, and make their modules importable."""
    for name, version in PACKAGES.items():
        archive = folder / f"{name}-{version}.tar.gz"
        if not archive.exists():
            skip = {"MAMBA_SKIP_CUDA_BUILD": "TRUE", "CAUSAL_CONV1D_SKIP_CUDA_BUILD": "TRUE"}
            how = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--quiet", "--dest", str(folder)]
            command = [sys.executable, "-m", "pip", "download", *how, f"{name}=={version}"]
            subprocess.run(command, check=True, env=os.environ | skip)
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        package = types.ModuleType(name)
        package.__path__ = [str(folder / f"{name}-{version}" / name)]
        sys.modules[name] = package
    for name in ("selective_scan_cuda", "causal_conv1d_cuda"):
        sys.modules[name] = types.ModuleType(name)


def originals() -> dict[str, Any]:
    """Return the reference functions, patched to call one another instead of compiled functions."""
    conv = importlib.import_module("causal_conv1d.causal_conv1d_interface")
    sys.modules["causal_conv1d"].causal_conv1d_fn = conv.causal_conv1d_fn  # type: ignore[attr-defined]
    scan = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    triton = {
        name: importlib.import_module(f"mamba_ssm.ops.triton.{name}")
        for name in ("selective_state_update", "ssd_combined", "layernorm_gated", "layer_norm")
    }
    for module in (scan, triton["ssd_combined"]):
        vars(module).update(causal_conv1d_fn=conv.causal_conv1d_ref, selective_scan_fn=scan.selective_scan_ref)
    triton["ssd_combined"].rmsnorm_fn = triton["layernorm_gated"].rms_norm_ref
    return {
        "selective_scan": scan.selective_scan_ref,
        "mamba_inner": scan.mamba_inner_ref,
        "state_update": triton["selective_state_update"].selective_state_update_ref,
        "chunk_scan": triton["ssd_combined"].ssd_chunk_scan_combined_ref,
        "split": triton["ssd_combined"].mamba_split_conv1d_scan_ref,
        "gated_norm": triton["layernorm_gated"].rms_norm_ref,
        "layer_norm": triton["layer_norm"].layer_norm_ref,
        "rms_norm": triton["layer_norm"].rms_norm_ref,
        "conv": conv.causal_conv1d_ref,
        "conv_update": conv.causal_conv1d_update_ref,
        "varlen": importlib.import_module("causal_conv1d.causal_conv1d_varlen").causal_conv1d_varlen_states_ref,
    }


def flat(found: Any) -> list[Any]:
    return [found] if isinstance(found, torch.Tensor) else [x for part in found for x in flat(part)]


def difference(ours: Call, theirs: Call, given: dict[str, Any], **options: Any) -> float:
    """Return the largest relative difference of the results and of the gradients of all arguments."""
    results = []
    for function in (ours, theirs):
        leaves = {n: x.detach().clone().requires_grad_() for n, x in given.items()}
        found = flat(function(**leaves, **options))
        torch.manual_seed(1)
        total = sum((torch.view_as_real(x) if x.is_complex() else x).mul(_weights(x)).sum() for x in found)
        results.append([*found, *torch.autograd.grad(total, list(leaves.values()))])
    return largest(*results)


def _weights(x: Any) -> Any:
    return torch.randn((*x.shape, 2) if x.is_complex() else x.shape)


def largest(found: list[Any], expected: list[Any]) -> float:
    for a, e in zip(found, expected, strict=True):
        assert a.dtype == e.dtype and a.shape == e.shape
    with torch.no_grad():
        return max(float((a - e).norm() / e.norm()) for a, e in zip(found, expected, strict=True))


def report(name: str, found: float, tolerance: float = 2e-5) -> None:
    print(f"{name}: {found:.1e}")
    assert found < tolerance, name


def check_signatures(theirs: dict[str, Any]) -> None:
    """Compare the names, order and defaults of the arguments; the originals have no annotations."""
    for name, original in theirs.items():
        ours = getattr(compat.mamba_ssm, name, None) or getattr(compat.causal_conv1d, name)
        found, expected = (
            [(p.name, p.default) for p in inspect.signature(f).parameters.values()] for f in (ours, original)
        )
        assert found == expected, name


def functions() -> dict[str, Any]:
    """Return the original functions, which need a GPU."""
    paths = {
        "mamba_ssm.ops.selective_scan_interface": ("selective_scan_fn", "mamba_inner_fn"),
        "mamba_ssm.ops.triton.selective_state_update": ("selective_state_update",),
        "mamba_ssm.ops.triton.ssd_combined": ("mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined"),
        "mamba_ssm.ops.triton.layernorm_gated": ("layernorm_fn", "rmsnorm_fn"),
        "mamba_ssm.ops.triton.layer_norm": ("layer_norm_fn", "rms_norm_fn", "RMSNorm"),
        "causal_conv1d.causal_conv1d_interface": ("causal_conv1d_fn", "causal_conv1d_update"),
        "causal_conv1d.causal_conv1d_varlen": ("causal_conv1d_varlen_states",),
    }
    found = {name: getattr(importlib.import_module(path), name) for path, names in paths.items() for name in names}
    gated = importlib.import_module("mamba_ssm.ops.triton.layernorm_gated")
    return found | {"RMSNormGated": gated.RMSNorm, "LayerNormGated": gated.LayerNorm}


def check_scans(theirs: dict[str, Any]) -> None:
    ours = compat.mamba_ssm
    for is_complex, (groups, fixed) in product((False, True), ((None, ""), (2, ""), (None, "B"), (None, "BC"))):
        given = scan_inputs(torch.float32, groups=groups, fixed=fixed, is_complex=is_complex)
        name = f"selective_scan_fn, groups {groups}, fixed {fixed or 'none'}, complex {is_complex}"
        options = {"delta_softplus": True, "return_last_state": True}
        report(name, difference(ours.selective_scan_fn, theirs["selective_scan"], given, **options))
    for is_complex, fixed in product((False, True), ("", "BC")):
        given = inner_inputs(torch.float32, fixed=fixed, is_complex=is_complex)
        found = difference(ours.mamba_inner_fn, theirs["mamba_inner"], given, delta_softplus=True)
        report(f"mamba_inner_fn, fixed {fixed or 'none'}, complex {is_complex}", found)
    given = chunk_inputs(torch.float32, time=64)
    found = difference(ours.mamba_chunk_scan_combined, theirs["chunk_scan"], given, chunk_size=16, dt_softplus=True)
    report("mamba_chunk_scan_combined", found)
    for before in (False, True):
        given, options = split_inputs(torch.float32, groups=1)
        options |= {"norm_before_gate": before, "chunk_size": 16, "dt_limit": (0.1, 1.5)}
        report(
            f"mamba_split_conv1d_scan_combined, {before}",
            difference(ours.mamba_split_conv1d_scan_combined, theirs["split"], given, **options),
        )


def check_norms(theirs: dict[str, Any]) -> None:
    ours = compat.mamba_ssm
    x, z, residual = torch.randn(3, 2, 9, 12).unbind()
    weights = {"weight": torch.randn(12), "bias": torch.randn(12)}
    for before in (False, True):
        for size in (None, 4):
            options = {"group_size": size, "norm_before_gate": before, "eps": 1e-5}
            found = difference(ours.rmsnorm_fn, theirs["gated_norm"], {"x": x, "z": z, **weights}, **options)
            report(f"rmsnorm_fn, {options}", found)
    for name in ("layer_norm", "rms_norm"):
        for given in ({"x": x, **weights}, {"x": x, "residual": residual, **weights}):
            found = difference(getattr(ours, f"{name}_fn"), theirs[name], given, prenorm=True)
            report(f"{name}_fn, {len(given)} arguments", found)


def check_steps(theirs: dict[str, Any]) -> None:
    for shape in ((5,), (4, 5)):
        x, dt, z = torch.randn(3, 2, *shape).unbind()
        A, D, bias = -torch.rand(*shape, 3), torch.randn(shape), torch.randn(shape)
        groups = (2,) if len(shape) == 2 else ()
        B, C = torch.randn(2, 2, *groups, 3).unbind()
        state = torch.randn(2, *shape, 3)
        both = [state.clone(), state.clone()]
        rest = (x, dt, A, B, C, D, z, bias, True)
        found = compat.mamba_ssm.selective_state_update(both[0], *rest), theirs["state_update"](both[1], *rest)
        report(f"selective_state_update, {len(shape)} axes", largest([found[0], both[0]], [found[1], both[1]]))


def check_convolutions(theirs: dict[str, Any]) -> None:
    ours = compat.causal_conv1d
    given = {"x": torch.randn(2, 5, 9), "weight": torch.randn(5, 4), "bias": torch.randn(5)}
    for activation in (None, "silu"):
        for more in ({}, {"initial_states": torch.randn(2, 5, 3)}):
            options = {"activation": activation, "return_final_states": True}
            found = difference(ours.causal_conv1d_fn, theirs["conv"], {**given, **more}, **options)
            report(f"causal_conv1d_fn, {activation}, {len(more)} states", found)
    for seqlens in (None, torch.tensor([3, 12], dtype=torch.int32)):
        state = torch.randn(2, 5, 7)
        both = [state.clone(), state.clone()]
        rest = (given["weight"], given["bias"], "silu", seqlens)
        found = [
            f(given["x"][..., :3], s, *rest)
            for f, s in zip((ours.causal_conv1d_update, theirs["conv_update"]), both, strict=True)
        ]
        report("causal_conv1d_update", largest([found[0], both[0]], [found[1], both[1]]))
    bounds = torch.tensor([0, 2, 7, 9], dtype=torch.int32)
    x = torch.randn(9, 5)
    pair = [[f(x, bounds, 4)] for f in (ours.causal_conv1d_varlen_states, theirs["varlen"])]
    report("causal_conv1d_varlen_states", largest(*pair), 1e-30)


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        fetch(Path(sys.argv[1] if sys.argv[1:] else temporary))
        check_signatures(functions())
        theirs = originals()
        check_scans(theirs)
        check_norms(theirs)
        check_steps(theirs)
        check_convolutions(theirs)


if __name__ == "__main__":
    main()
