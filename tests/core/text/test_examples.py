"""The examples run and reach the results that they promise."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.scripts import run_on_two_ranks, run_script

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

EXAMPLES = Path(__file__).parents[3] / "examples"


def run(script: str, *arguments: str, **environment: str) -> str:
    return run_script(EXAMPLES / script, *arguments, **environment)


def test_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of the user come first, then those of --quick, then the defaults of the dataclass."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from _script import command_line, option

    @dataclass(frozen=True)
    class Options:
        widths: tuple[int, ...] = option((8, 6), "bits", (8,))
        most_steps: int = option(20, "steps", 4)
        method: str = option("auto", "how")
        export: Path | None = option(None, "where to")

    monkeypatch.setattr("sys.argv", ["example.py"])
    assert command_line(Options, "Title.\n") == Options((8, 6), 20, "auto", None)
    monkeypatch.setattr("sys.argv", ["example.py", "--quick", "--widths", "7", "5", "--export", "here"])
    assert command_line(Options, "Title.\n") == Options((7, 5), 4, "auto", Path("here"))
    monkeypatch.setattr("sys.argv", ["example.py", "--most-steps", "many"])
    with pytest.raises(SystemExit):
        command_line(Options, "Title.\n")


def test_char_lm(tmp_path: Path) -> None:
    """The losses before and after accelerate are the same, for each of the three models."""
    figure = tmp_path / "char_lm.png"
    output = run("char_lm.py", "--quick", "--figure", str(figure))

    assert figure.read_bytes().startswith(b"\x89PNG")
    assert str(figure) in output
    assert len(re.findall(r"^accelerated recurrence", output, re.MULTILINE)) == 3
    compared = re.findall(r"^(LSTM|GRU|Mamba) +(\S+) +(\S+) in 10 steps, (\S+) in (\d+)$", output, re.MULTILINE)
    assert [(name, int(steps)) for name, *_, steps in compared] == [("LSTM", 30), ("GRU", 30), ("Mamba", 10)]
    for _, speed_up, first, every, _ in compared:
        assert float(speed_up) > 0
        assert float(first) < 1e-5
        assert float(every) < 1e-3
    rows = re.findall(r"^(LSTM|GRU|Mamba), fastiter +(\S+) +(\S+) ", output, re.MULTILINE)
    assert [name for name, *_ in rows] == ["LSTM", "GRU", "Mamba"]
    assert all(float(bits) < 6 for _, *row in rows for bits in row)  # they start at log2 of the alphabet, 6.5


def test_the_fallback_mamba_of_char_lm_is_accelerated(monkeypatch: pytest.MonkeyPatch) -> None:
    """char_lm.py's own Mamba, used without transformers, computes the same after accelerate, including gradients."""
    import torch

    from fastiter.torch import accelerate

    monkeypatch.syspath_prepend(str(EXAMPLES))
    from _mamba import Mamba

    torch.manual_seed(0)
    before = Mamba(16).double()
    after, report = accelerate(copy.deepcopy(before), return_report=True)
    assert list(report.accelerated) == ["mixer"] and not report.left
    x = torch.randn(3, 9, 16, dtype=torch.float64)
    (y, _), (expected, _) = after(x), before(x)
    torch.testing.assert_close(y, expected)
    gradients = [torch.autograd.grad(z.square().sum(), [*m.parameters()]) for z, m in ((y, after), (expected, before))]
    torch.testing.assert_close(*gradients)


def test_sequence_parallel(tmp_path: Path) -> None:
    """Two processes give the same numbers as one."""
    figure = tmp_path / "sequence_parallel.png"
    output = run_on_two_ranks(EXAMPLES / "sequence_parallel.py", "--quick", "--figure", str(figure))
    assert figure.read_bytes().startswith(b"\x89PNG")
    off = re.findall(r"^(?:linear|delta)_scan: 512 steps, .* off by (\S+)$", output, re.MULTILINE)
    assert len(off) == 2 and all(float(number) < 1e-4 for number in off)
    assert re.search(r"^a message takes \d+ us and \S+ ns a byte$", output, re.MULTILINE)


def test_distributed_poisson(tmp_path: Path) -> None:
    """Two processes solve the system that SciPy solves in one."""
    figure = tmp_path / "poisson.png"
    output = run_on_two_ranks(EXAMPLES / "distributed_poisson.py", "--quick", "--figure", str(figure))
    assert figure.read_bytes().startswith(b"\x89PNG")
    steps = dict(re.findall(r"^(\S.*): (\d+) steps, ", output, re.MULTILINE))
    assert list(steps) == ["CG", "Chebyshev, block Jacobi", "CG, block Jacobi", "SciPy's CG, one process"]
    assert int(steps["CG, block Jacobi"]) < int(steps["CG"])
    off = re.search(r"; off by (\S+)$", output, re.MULTILINE)
    assert off is not None and float(off[1]) < 1e-7


def test_custom_cell(tmp_path: Path) -> None:
    figure = tmp_path / "custom_cell.png"
    output = run("custom_cell.py", "--quick", "--figure", str(figure))
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "Jacobian block 2" in output
    assert "windows run as a loop 0" in output
    differences = re.findall(r"^difference of the (states|gradients) +(\S+)$", output, re.MULTILINE)
    assert [name for name, _ in differences] == ["states", "gradients"]
    assert all(float(difference) < 1e-10 for _, difference in differences)
    iterations = re.search(r"^iterations (\d+),", output, re.MULTILINE)
    assert iterations is not None
    assert 0 < int(iterations[1]) < 50


def test_poisson(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    figure = tmp_path / "poisson.png"
    output = run("poisson.py", "--quick", "--figure", str(figure))
    assert figure.read_bytes().startswith(b"\x89PNG")
    steps = {name.strip(): int(n) for name, n in re.findall(r"^(\S.{29})\s*(\d+) .* converged$", output, re.MULTILINE)}
    assert len(steps) == 13  # Kaczmarz alone needs more steps than it is allowed
    assert steps["SSOR-CG"] < steps["SOR, best omega, colours"] < steps["Gauss-Seidel, natural"] < steps["Jacobi"]
    assert steps["SOR, without a matrix"] == steps["SOR, best omega, colours"]


def test_smoother(tmp_path: Path) -> None:
    pytest.importorskip("pyamg")
    figure = tmp_path / "smoother.png"
    output = run("smoother.py", "--quick", "--figure", str(figure))
    assert figure.read_bytes().startswith(b"\x89PNG")
    cycles = [int(n) for n in re.findall(r"^(?:pyamg|fastiter).*?(\d+) +0\.\d+ +\S+$", output, re.MULTILINE)]
    assert len(cycles) == 3
    assert cycles[0] == cycles[1]
    assert abs(cycles[2] - cycles[0]) <= 3


def test_replace_lstm(tmp_path: Path) -> None:
    figure = tmp_path / "replace_lstm.png"
    output = run("replace_lstm.py", "--quick", "--figure", str(figure), OMP_NUM_THREADS="1")

    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "replaced encoder: LSTM(16, 8, num_layers=2, " in output
    differences = re.findall(r"^largest difference of .*: (\S+)$", output, re.MULTILINE)
    assert len(differences) == 2
    assert max(map(float, differences)) < 1e-5
    ratios = re.findall(r"^(prediction|training step) +\S+ +\S+ +(\S+)$", output, re.MULTILINE)
    assert all(float(ratio) > 0 for _, ratio in ratios) and len(ratios) == 2
    restored = re.findall(r"^restored (\w+): ", output.partition("back to torch's:")[2], re.MULTILINE)
    assert restored == ["encoder", "smoother"]


def test_mamba_cpu(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    figure = tmp_path / "mamba_cpu.png"
    output = run("mamba_cpu.py", "--quick", "--figure", str(figure), OMP_NUM_THREADS="1")

    assert figure.read_bytes().startswith(b"\x89PNG")
    assert output.startswith("accelerated 2 modules, backbone.layers.*.mixer: MambaMixer as a whole, ")
    difference = re.search(r"^largest difference of the first 6 losses: (\S+) bits$", output, re.MULTILINE)
    assert difference is not None
    assert float(difference[1]) < 1e-4
    rows = re.findall(r"^(training|reading|writing) +\S+ +\S+ +(\S+)$", output, re.MULTILINE)
    assert [task for task, _ in rows] == ["training", "reading", "writing"]
    assert all(float(ratio) > 0 for _, ratio in rows)
    assert "(and as transformers' own, the same):\ndef " in output


def test_decode_stream(tmp_path: Path) -> None:
    """It asserts itself that every text is the most probable one."""
    pytest.importorskip("transformers", "5.24")
    figure = tmp_path / "decode_stream.png"
    output = run("decode_stream.py", "--quick", "--figure", str(figure), OMP_NUM_THREADS="1")

    assert figure.read_bytes().startswith(b"\x89PNG")
    rows = re.findall(r"^(\S.*?) {2,}\S+ +\S+ +(\S+) +(\S+)$", output, re.MULTILINE)
    sizes = {name: float(size) for name, size, _ in rows}
    before, after, *packed = sizes.values()
    assert list(sizes)[2:] == ["Decoder, 32 bits", "Decoder, 8 bits", "Decoder, 4 bits"]
    assert before == after >= packed[0] > packed[1] > packed[2] > 0
    assert all(float(loss) < 1e-4 for *_, loss in rows)


def test_mdp_gridworld(tmp_path: Path) -> None:
    """It asserts its numbers itself."""
    figure = tmp_path / "figure.png"
    output = run("mdp_gridworld.py", "--quick", "--figure", str(figure))
    assert figure.read_bytes().startswith(b"\x89PNG") and str(figure) in output
    assert re.search(r"^outwards from the goal +\d+ +\S+ +\S+$", output, re.MULTILINE), output
