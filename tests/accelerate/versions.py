"""python -m tests.accelerate.versions 4.57.1 5.12.0: accelerate on the models of other versions of transformers.

Each version is installed with its dependencies into a temporary folder. This downloads some 50 MB per version, so no
test does it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import torch
import transformers

from fastiter.torch import accelerate
from tests.accelerate.models import OPTIONS, make, task, tokens

#: Models that themselves raise an error on sequences of two chunks
BROKEN = {("xLSTM", "4.57.1")}

_NO_KERNELS, _ONE_CHUNK = {"use_mamba_kernels": False}, {"chunk_size": 64}
#: Before 5.15, Zamba2 and NemotronH carry states from chunk to chunk differently on the CPU and on GPUs
OF_MODELS = {"Jamba": _NO_KERNELS, "Zamba": _NO_KERNELS, "Zamba2": _ONE_CHUNK, "NemotronH": _ONE_CHUNK}


#: Models whose float32 gradients, ours and the original ones, have errors of 1e-2 at the first weights
IN_FLOAT64 = {"Rwkv"}


class Left(Exception):
    """Layers of a model are not accelerated in this version."""


def difference(name: str, training: bool) -> float:
    """Return the largest relative difference of logits and gradients; raise if tokens differ or a layer is skipped."""
    options = OF_MODELS.get(name, {})
    found, x = [], tokens(2, 33)
    for is_ours in (False, True):
        model = make(name, **options).train(training)
        model = model.double() if name in IN_FLOAT64 else model
        if is_ours:
            model, report = accelerate(model, return_report=True)
            if report.left or not report.accelerated:
                raise Left(report)
        how = {"attention_mask": torch.ones_like(x), "max_new_tokens": 9, "do_sample": False}
        written = model.generate(x, **how)
        given, how = task(model)
        logits = model(given, **{"use_cache": not training, **how}).logits
        logits.square().sum().backward()
        found.append((written, logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)))
    assert torch.equal(found[0][0], found[1][0]), f"{name}: other tokens"
    return max(float((a - b).norm() / a.norm()) for a, b in zip(found[0][1:], found[1][1:], strict=True))


def check_models() -> None:
    """Print the differences for the imported version, or the layers that are left unchanged."""
    transformers.logging.set_verbosity_error()
    sys.modules.setdefault("fla", None)  # type: ignore[arg-type]  # from which models would take kernels for GPUs
    torch.set_num_threads(1)
    version = transformers.__version__
    for name in OPTIONS:
        of_text = "TextConfig" if name == "Qwen3_5" else "Config"
        if not hasattr(transformers, name + of_text) or (name, version) in BROKEN:
            print(f"{version} {name}: not in this version, or broken in it")
            continue
        try:
            both = [difference(name, training) for training in (False, True)]
        except Left as report:
            print(f"{version} {name}: {report}")
            continue
        print(f"{version} {name}: {both[0]:.1e} in eval mode, {both[1]:.1e} in training mode")
        assert max(both) < 2e-3, "transformers' chunked gradients of A_log are off by up to 1e-3"


def main() -> None:
    if not sys.argv[1:]:
        check_models()
    for version in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            packages = [f"transformers=={version}", "--target", folder, "--quiet"]
            subprocess.run([sys.executable, "-m", "pip", "install", *packages], check=True)
            path = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
            subprocess.run([sys.executable, "-m", __spec__.name], check=True, env=os.environ | {"PYTHONPATH": path})


if __name__ == "__main__":
    main()
