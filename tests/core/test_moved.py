"""Files written, and imports made, with the names that modules had before a family had one folder."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastiter
from fastiter import quant, relax
from fastiter._moved import MOVED

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("name", MOVED)
def test_former_names_are_imported(name: str) -> None:
    if "torch" in name:
        pytest.importorskip("torch")
    assert importlib.import_module(name) is importlib.import_module(MOVED[name])


def test_no_former_name_is_taken() -> None:
    """A file of that name would be imported in its place."""
    root = Path(fastiter.__file__).parents[1]
    taken = [name for name in MOVED if (root / f"{name.replace('.', '/')}.py").exists()]
    assert not taken


def test_other_names_are_missing_as_ever() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'fastiter\.nothing'$"):
        importlib.import_module("fastiter.nothing")


def test_functions_keep_their_names_when_former_modules_are_imported() -> None:
    pytest.importorskip("torch")
    script = (
        "import fastiter.torch, importlib\n"
        "for name in ('flashrnn', 'replace', 'relax', 'solve'):\n"
        "    importlib.import_module(f'fastiter.torch.{name}')\n"
        "assert callable(fastiter.torch.flashrnn) and callable(fastiter.torch.replace)\n"
        "assert fastiter.torch.relax.sweeps is fastiter.torch.sweeps\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_objects_are_read() -> None:
    """The file has objects of each public class of fastiter, as pickle.dump wrote them with the former modules."""
    with open(DATA / "arrays_before_move.pickle", "rb") as file:
        found = pickle.load(file)
    A, b = np.array([[4.0, 1, 0], [1, 5, 2], [0, 2, 6]]), np.array([1.0, 2, 3])
    assert isinstance(found["Solution"], fastiter.Solution)
    np.testing.assert_allclose(A @ found["Solution"].value, b, rtol=1e-4)
    assert isinstance(found["Relaxation"], relax.Relaxation)
    assert found["formats"] == [
        quant.parse(text) for text in ("fixed<8,3>", "e4m3fn", "int8", "posit<8,1>", "mxfp4_e2m1", "nvfp4", "nf4")
    ]
    assert list(found["FixedArray"]) == [0.5, 1.25]
    assert found["calibrate"] == quant.calibrate(np.linspace(0, 1, 9), "int8")
    for name in ("Stencil", "TsallisINF", "ChebCB"):
        assert type(found[name]) is getattr(relax, name)


@pytest.fixture(scope="module")
def modules() -> dict:
    torch = pytest.importorskip("torch")
    return torch.load(DATA / "modules_before_move.pt", weights_only=False)


NAMES = (
    *("LSTM", "GRU", "RNN", "sLSTM", "sLSTMBlock", "DeltaNet", "LinearRNN", "ParaGRU", "ParaLSTM"),
    *("QuantLinear", "QuantConv2d", "QuantBatchNorm1d", "QuantBatchNorm2d", "QuantAffine", "QuantLSTM", "QuantGRU"),
    *("FixedQuantizer", "LSQQuantizer", "PACTQuantizer", "FormatQuantizer", "GradientQuantizer"),
)


@pytest.mark.parametrize("name", [*NAMES, "quantize_model"])
def test_modules_are_read_and_compute_the_same(name: str, modules: dict) -> None:
    """The file has (module, input, output) of each layer, as torch.save wrote them with the former modules."""
    import torch

    from fastiter.torch import nn

    module, x, expected = modules[name]
    assert name == "quantize_model" or type(module) is getattr(nn, name)
    with torch.no_grad():
        y = module(x)
    torch.testing.assert_close(y[0] if isinstance(y, tuple) else y, expected, rtol=1e-5, atol=1e-6)


def test_other_objects_of_torch_are_read(modules: dict) -> None:
    import fastiter.torch

    for name in ("FlashRNNConfig", "Replaced", "Restored", "Relaxation", "Chebyshev"):
        assert type(modules[name]) is getattr(fastiter.torch, name)
    assert type(modules["calibration"]) is fastiter.torch.quant.Calibration
    for name in ("QuantPlan", "StreamingRNN"):
        assert type(modules[name]) is getattr(fastiter.torch.nn, name)
    assert str(modules["summary"])


#: The parts of an sLSTMBlock, which are no public classes: moving this module takes a line in _moved.py
PRIVATE = {"fastiter.rnn._torch.nn.slstm_block"}


@pytest.mark.parametrize("name", NAMES)
def test_files_written_now_have_public_names_only(name: str, modules: dict) -> None:
    """Whole modules that are saved now can be read after private modules have moved again."""
    import io
    import pickletools
    import zipfile

    import torch

    file = io.BytesIO()
    torch.save(modules[name][0], file)
    archive = zipfile.ZipFile(file)
    (data,) = (archive.read(part) for part in archive.namelist() if part.endswith("data.pkl"))
    named = {text.split()[0] for op, text, _ in pickletools.genops(data) if op.name == "GLOBAL"}
    assert any(module.startswith("fastiter.torch") for module in named)
    assert not {module for module in named if module.startswith("fastiter") and "._" in module} - PRIVATE
