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
PROMPT = 300
LARGE = {"hidden_size": 1024, "vocab_size": 12288, "num_hidden_layers": 3}
SMALL = {"hidden_size": 32, "vocab_size": 64, "num_hidden_layers": 2}

CHILD = """
import json, sys, torch, transformers
from fastiter.torch import decode

def memory(name):
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(name + ":"))

def forget():
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # the highest size is the present one

torch.set_num_threads(1)
prompt = torch.ones(1, int(sys.argv[3]), dtype=torch.int64)
decode.load(sys.argv[2], threads=1).prefill(prompt)  # imports all code
forget()
before = memory("VmRSS")
decoder = decode.load(sys.argv[1], weights="int4", threads=1)
found = {"load": memory("VmHWM") - before, "held": memory("VmRSS") - before, "packed": decoder.report.bytes}
forget()
decoder.prefill(prompt)
print(json.dumps({**found, "prompt": memory("VmHWM") - before}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files of a model with a few large matrices, and those of a small one."""
    path: Path = tmp_path_factory.mktemp("models")
    for name, sizes in (("large", LARGE), ("small", SMALL)):
        config = transformers.MambaConfig(state_size=8, **sizes)
        transformers.MambaForCausalLM(config).save_pretrained(path / name)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory from /proc")
def test_the_packed_model_and_one_matrix(folder: Path) -> None:
    """The largest matrix is all that is permitted besides the packed weights, and the mapped file while it is read.

    Pages of the file belong to the system, but count as the process's as long as the file is mapped. A prompt needs
    its activations, too, which are smaller than the matrix.
    """
    arguments = [str(folder / "large"), str(folder / "small"), str(PROMPT)]
    ran = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    stored = sum(file.stat().st_size for file in (folder / "large").glob("*.safetensors"))
    matrix = 4 * LARGE["hidden_size"] * LARGE["vocab_size"]
    assert matrix + MARGIN < stored
    assert found["packed"] < found["load"] < stored + found["packed"] + matrix + MARGIN
    assert found["held"] < found["packed"] + 2 * MARGIN
    assert found["prompt"] < found["packed"] + matrix + 2 * MARGIN
