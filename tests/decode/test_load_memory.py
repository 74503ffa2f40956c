"""decode.load: the most memory that it takes, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", "5.24")
pytest.importorskip("safetensors")

#: Bytes of Python's own objects, of code that is first used, and of pages that are only in part in use
MARGIN = 16 << 20
LAYERS, WIDTH, SMALL_WIDTH = 4, 1024, 32

CHILD = """
import json, sys, torch, transformers
from fastiter.torch import decode

def memory(name):
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(name + ":"))

torch.set_num_threads(1)
decode.load(sys.argv[2], threads=1)  # imports all code
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")  # the highest size is the present one
before = memory("VmRSS")
decoder = decode.load(sys.argv[1], weights=json.loads(sys.argv[3]), threads=1)
print(json.dumps({"peak": memory("VmHWM") - before, "packed": decoder.report.bytes}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files of a model with a few large matrices, and those of a small one."""
    path: Path = tmp_path_factory.mktemp("models")
    for name, width in (("large", WIDTH), ("small", SMALL_WIDTH)):
        config = transformers.MambaConfig(vocab_size=64, hidden_size=width, num_hidden_layers=LAYERS, state_size=8)
        transformers.MambaForCausalLM(config).save_pretrained(path / name)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory from /proc")
@pytest.mark.parametrize("weights", ["int4", None])
def test_the_packed_model_and_one_layer(weights: str | None, folder: Path) -> None:
    """A second copy of the model is more than all that is permitted besides the packed weights and the mapped file.

    While matrices are packed, one is in memory besides; the trial unpacks those of a layer. Pages of the file belong to
    the system, but count as the process's as long as the file is mapped.
    """
    arguments = [str(folder / "large"), str(folder / "small"), json.dumps(weights)]
    ran = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    stored = sum(file.stat().st_size for file in (folder / "large").glob("*.safetensors"))
    layer = stored / LAYERS
    assert layer + MARGIN < stored / 2
    assert found["packed"] < found["peak"] < stored + found["packed"] + layer + MARGIN
