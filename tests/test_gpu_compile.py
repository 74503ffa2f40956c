"""Every GPU kernel compiles for every target, spills nothing, and uses the resources listed in resources.json.

Registers and shared memory are compared if the compilers are those that wrote the table.
`python tests/gpu_compile/gate.py --write` rewrites it after an intended change.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from gpu_compile.gate import HERE, KERNELS, TABLE, stems

#: Files of shared functions, which have no kernel to compile
SOURCES = sorted(
    {path.stem for path in KERNELS.glob("*/*.cu")}
    | {path.stem for path in KERNELS.glob("*/*.py") if "_kernel(" in path.read_text()}
)


@pytest.mark.parametrize("stem", stems())
def test_compiles_within_its_resources(stem: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, str(HERE / "gate.py"), stem], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    found, expected = json.loads(done.stdout), json.loads(TABLE.read_text())
    rows = found["rows"][stem]
    assert rows and not {name: row for name, row in rows.items() if row["spilled"]}
    assert set(rows) == set(expected["rows"][stem])
    same = [kind for kind in ("triton", "cuda") if _version(found, kind) == _version(expected, kind)]
    compared = {name: row for name, row in rows.items() if name.split()[0] in same}
    assert compared == {name: expected["rows"][stem][name] for name in compared}


def _version(told: dict, kind: str) -> str:
    return told["versions"]["nvrtc" if kind == "cuda" else kind]


@pytest.mark.parametrize("stem", SOURCES)
def test_every_source_is_compiled(stem: str) -> None:
    assert stem in stems(), f"tests/gpu_compile/{stem}_variants.py is missing"


@pytest.mark.parametrize("path", sorted(KERNELS.glob("cuda/*.cu")), ids=lambda path: path.stem)
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here; NVRTC has compiled the same sources above")
def test_nvcc_takes_the_source_as_it_is(path: Path, tmp_path: Path) -> None:
    from fastiter._nvrtc import headers_of
    from gpu_compile.gate import variants

    headers = [option for file in (path.parent / "device.cuh", *headers_of(path.stem)) for option in ("-include", file)]
    every = variants(path.stem).CUDA  # NVRTC compiles all of them; nvcc differs only in how it parses the source
    for number, defines in enumerate([every[0], every[-1]]):
        options = ["-std=c++17", "-arch=sm_90", "-cubin", *map(str, headers)]
        options += [f"-D{key}={value}" for key, value in defines.items()]
        command = ["nvcc", *options, str(path), "-o", str(tmp_path / f"{number}.cubin")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
