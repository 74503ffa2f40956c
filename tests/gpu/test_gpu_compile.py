"""Each GPU kernel compiles, spills nothing, and uses the resources listed in resources.json, here for one target.

Before, `.ci/run` compiles each for every target, which build/gate keeps, and `make check-kernels`, every night, all
variants. Registers and shared memory are compared if the table was written with the same compilers. `python
tests/gpu/compile/gate.py --write` rewrites the table after an intended change.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from tests.gpu.compile.gate import HERE, KERNELS, differences, stems

#: Files of shared functions, without a kernel
SOURCES = sorted(
    f"{path.parent.name}/{path.stem}"
    for path in KERNELS.glob("*/*")
    if path.suffix == ".cu" or (path.suffix == ".py" and "_kernel(" in path.read_text())
)


class Gate:
    """A process of gate.py that compiles one source after another: Triton begins by hashing its library, half a GB."""

    def __init__(self, folder: Path) -> None:
        self.said = folder / "stderr"
        environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "gate.py"), "--serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env=environment,
            )

    def __call__(self, stem: str) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(stem, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, f"gate.py has ended with {self.process.wait()}: {self.said.read_text()}"
        told: dict[str, Any] = json.loads(line)
        assert "error" not in told, told["error"]
        return told


@pytest.fixture(scope="module")
def gates() -> Iterator[list[Gate]]:
    """All processes of this module, of which the last one compiles sources."""
    started: list[Gate] = []
    yield started
    for gate in started:
        gate.process.communicate()  # the process ends with its input


@pytest.fixture
def gate(gates: list[Gate], tmp_path: Path) -> Gate:
    """Return a process that compiles sources: a new one if a compiler has crashed."""
    if not gates or gates[-1].process.poll() is not None:
        gates.append(Gate(tmp_path))
    return gates[-1]


@pytest.mark.parametrize("stem", stems())
def test_resources_are_as_listed(stem: str, gate: Gate) -> None:
    assert not differences(stem, gate(stem))


def test_a_source_that_fails_is_reported_and_the_next_one_compiles(gate: Gate) -> None:
    with pytest.raises(AssertionError, match="there_is_none"):
        gate("scan/there_is_none")
    assert gate.process.poll() is None


#: Sizes that change between calls, with B and T
CHANGING = {"time", "rows", "batch", "sequences", "chunks", "segment", "segments", "blocks", "line_row", "line_time"}


def test_sizes_of_a_call_are_not_specialised() -> None:
    """Otherwise some new values of B and T, as 1 or the next multiple of 16, would cause another compilation."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(HERE / "specialised.py")], capture_output=True, text=True, env=environment, check=True
    )
    found = json.loads(done.stdout)
    assert {f"{path.parent.name}/{name}" for path in KERNELS.glob("*/triton_*.py") for name in kernels_in(path)} == {
        *found
    }
    pointers = {"ssm/causal_conv_update_kernel": {"rows"}, "ssm/selective_step_kernel": {"rows"}}
    changing = {name: CHANGING.intersection(told) - pointers.get(name, set()) for name, told in found.items()}
    assert not {name: sizes for name, sizes in changing.items() if sizes}


def kernels_in(path: Path) -> list[str]:
    return re.findall(r"^def (\w+_kernel)\(", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("stem", SOURCES)
def test_every_source_is_compiled(stem: str) -> None:
    assert stem in stems(), "tests/{}/gpu_variants/{}.py is missing".format(*stem.split("/"))


@pytest.mark.parametrize("stem", [stem for stem in SOURCES if (KERNELS / f"{stem}.cu").exists()])
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here; NVRTC has compiled the same sources above")
def test_nvcc_compiles_the_unchanged_source(stem: str, tmp_path: Path) -> None:
    from fastiter._nvrtc import headers_of
    from tests.gpu.compile.gate import variants

    headers = [option for file in headers_of(stem) for option in ("-include", file)]
    every = variants(stem).CUDA  # NVRTC has compiled them; nvcc differs only in parsing, so that it need not optimise
    for number, defines in enumerate([every[0], every[-1]]):
        options = ["-std=c++17", "-arch=sm_90", "-ptx", "-Xcicc", "-O0", *map(str, headers)]
        options += [f"-D{key}={value}" for key, value in defines.items()]
        command = ["nvcc", *options, str(KERNELS / f"{stem}.cu"), "-o", str(tmp_path / f"{number}.ptx")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
