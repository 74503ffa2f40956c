"""The examples run, and say what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_char_lm(tmp_path: Path) -> None:
    figure = tmp_path / "char_lm.png"
    output = run("char_lm.py", "--quick", "--figure", str(figure))

    assert figure.read_bytes().startswith(b"\x89PNG")
    assert str(figure) in output
    differences = re.search(r"between the loss curves: (\S+) bits \((\S+) in the first", output)
    assert differences is not None
    assert float(differences[1]) < 1e-3
    assert float(differences[2]) < 1e-5
    losses = {name: float(loss) for name, loss in re.findall(r"^(fastiter|torch\.nn) +(\S+) ", output, re.MULTILINE)}
    assert losses.keys() == {"fastiter", "torch.nn"}
    assert losses["fastiter"] < 5.5  # it starts at log2 of the alphabet, 6.5


def test_state_tracking(tmp_path: Path) -> None:
    figure = tmp_path / "state_tracking.png"
    output = run("state_tracking.py", "--quick", "--processes", "1", "--figure", str(figure))

    assert figure.read_bytes().startswith(b"\x89PNG")
    assert str(figure) in output
    rows = re.findall(r"^(\S.*\]|.*complex) +((?:\d\.\d{3} \(\d\.\d{3}\) *){3})$", output, re.MULTILINE)
    assert len(rows) == 7
    accuracies = [float(number) for _, numbers in rows for number in re.findall(r"\d\.\d{3}", numbers)]
    assert all(0 < accuracy <= 1 for accuracy in accuracies)


def test_pararnn_lm() -> None:
    output = run("pararnn_lm.py", "--quick")

    found = re.findall(r"^(ParaGRU|torch\.nn\.GRU) +(\S+) ", output, re.MULTILINE)
    losses = {name: float(loss) for name, loss in found}
    assert losses.keys() == {"ParaGRU", "torch.nn.GRU"}
    assert max(losses.values()) < 5.8  # they start at log2 of the alphabet, 6.5
    difference = re.search(r"differ from the loop's by at most (\S+),", output)
    assert difference is not None
    assert float(difference[1]) < 1e-3


def test_custom_cell() -> None:
    output = run("custom_cell.py", "--quick")
    assert "Jacobian block 2" in output
    assert "windows run as a loop 0" in output
    differences = re.findall(r"^difference of the (states|gradients) +(\S+)$", output, re.MULTILINE)
    assert [name for name, _ in differences] == ["states", "gradients"]
    assert all(float(difference) < 1e-10 for _, difference in differences)
    iterations = re.search(r"^iterations (\d+),", output, re.MULTILINE)
    assert iterations is not None
    assert 0 < int(iterations[1]) < 50


def test_learning_to_relax(tmp_path: Path) -> None:
    figure = tmp_path / "learning_to_relax.png"
    output = run("learning_to_relax.py", "--quick", "--figure", str(figure))

    assert figure.read_bytes().startswith(b"\x89PNG")
    assert str(figure) in output
    found = re.findall(r"^(\S.*?)  +([\d,]+) +[\d,]+$", output, re.MULTILINE)
    total = {name: int(iterations.replace(",", "")) for name, iterations in found}
    assert len(total) == 10
    assert total["omega = 1.0"] > total["omega = 1.4"] > total["omega = 1.8"] > total["best arm of each system"]
    assert total["omega = 1.0"] > total["Tsallis-INF"] > total["best arm of each system"]
    assert total["Tsallis-INF"] > total["ChebCB"] > total["best arm of each system"]
    assert "differ by at most 0 iterations" in output
