"""The examples run and reach the results that they promise."""

from __future__ import annotations

import copy
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.scripts import run_script

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


def run_on_two_ranks(script: str, *arguments: str) -> str:
    """Run a program in two processes with the environment that torchrun gives them; return what rank 0 prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def one(rank: str) -> str:
        return run(script, *arguments, **group, RANK=rank, LOCAL_RANK=rank, OMP_NUM_THREADS="1")

    with ThreadPoolExecutor(2) as pool:
        first, _ = pool.map(one, "01")
    return first


def test_sequence_parallel() -> None:
    """Two processes give the same numbers as one."""
    output = run_on_two_ranks("sequence_parallel.py", "--quick")
    off = re.findall(r"^(?:linear|delta)_scan: 512 steps, .* off by (\S+)$", output, re.MULTILINE)
    assert len(off) == 2 and all(float(number) < 1e-4 for number in off)
    assert re.search(r"^a message takes \d+ us and \S+ ns a byte$", output, re.MULTILINE)


def test_distributed_poisson(tmp_path: Path) -> None:
    """Two processes solve the system that SciPy solves in one."""
    figure = tmp_path / "poisson.png"
    output = run_on_two_ranks("distributed_poisson.py", "--quick", "--figure", str(figure))
    assert figure.read_bytes().startswith(b"\x89PNG")
    steps = dict(re.findall(r"^(\S.*): (\d+) steps, ", output, re.MULTILINE))
    assert list(steps) == ["CG", "Chebyshev, block Jacobi", "CG, block Jacobi", "SciPy's CG, one process"]
    assert int(steps["CG, block Jacobi"]) < int(steps["CG"])
    off = re.search(r"; off by (\S+)$", output, re.MULTILINE)
    assert off is not None and float(off[1]) < 1e-7


def test_state_tracking(tmp_path: Path) -> None:
    figure = tmp_path / "state_tracking.png"
    output = run("state_tracking.py", "--quick", "--processes", "1", "--figure", str(figure))

    assert figure.read_bytes().startswith(b"\x89PNG")
    assert str(figure) in output
    rows = re.findall(r"^(\S.*\]|.*complex) +((?:\d\.\d{3} \(\d\.\d{3}\) *){3})$", output, re.MULTILINE)
    assert len(rows) == 7
    accuracies = [float(number) for _, numbers in rows for number in re.findall(r"\d\.\d{3}", numbers)]
    assert all(0 < accuracy <= 1 for accuracy in accuracies)


def test_pararnn_lm(tmp_path: Path) -> None:
    figure = tmp_path / "pararnn_lm.png"
    output = run("pararnn_lm.py", "--quick", "--figure", str(figure), OMP_NUM_THREADS="1")

    assert figure.read_bytes().startswith(b"\x89PNG")
    found = re.findall(r"^(ParaGRU|torch\.nn\.GRU) +(\S+) ", output, re.MULTILINE)
    losses = {name: float(loss) for name, loss in found}
    assert losses.keys() == {"ParaGRU", "torch.nn.GRU"}
    assert max(losses.values()) < 5.8  # they start at log2 of the alphabet, 6.5
    difference = re.search(r"differ from the loop's by at most (\S+),", output)
    assert difference is not None
    assert float(difference[1]) < 1e-3


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


def test_qfx_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    figure = tmp_path / "qfx_digits.png"
    output = run("qfx_digits.py", "--quick", "--figure", str(figure), "--export", str(tmp_path / "hls"))

    assert figure.read_bytes().startswith(b"\x89PNG")
    rows = re.findall(r"^(\d bits|K = \d) +(\S+) +(\S+) +(\S+) +\S+$", output, re.MULTILINE)
    assert [name for name, *_ in rows] == ["8 bits", "4 bits", "3 bits", "K = 2"]
    accuracies = {name: [float(x) for x in numbers] for name, *numbers in rows}
    assert min(accuracies["8 bits"]) > 94
    for name, gained in (("4 bits", 3), ("3 bits", 5)):  # percent by which QFX exceeds rounding after training
        after_training, _, learned = accuracies[name]
        assert learned > after_training + gained
    assert "the testbench says: 497 samples, 0 codes differ" in output
    assert (tmp_path / "hls" / "model.json").exists()


def test_low_precision_training(tmp_path: Path) -> None:
    figure = tmp_path / "low_precision_training.png"
    output = run("low_precision_training.py", "--quick", "--figure", str(figure))

    assert figure.read_bytes().startswith(b"\x89PNG")
    rows = re.findall(r"^(\S.*?) {2,}(\d+\.\d+) +(\d+\.\d+) +(-?\d+\.\d+)$", output, re.MULTILINE)
    above = {name: float(difference) for name, _, _, difference in rows}
    assert len(above) == 8
    assert above["float32"] == 0
    close = ("bf16", "FP8: E4M3, E5M2", "MXFP8: E4M3, E5M2", "int8", "fixed point, 8 bits")
    assert all(abs(above[name]) < 0.1 for name in close)
    assert 0 < above["MXFP4, stochastic"] < 0.5
    assert all(float(loss) < 5.8 for _, loss, _, _ in rows)  # it starts at log2 of the alphabet, 6.5


def test_learning_to_relax(tmp_path: Path) -> None:
    figure = tmp_path / "learning_to_relax.png"
    output = run("learning_to_relax.py", "--quick", "--figure", str(figure))

    figures = [figure, *(tmp_path / f"learning_to_relax_{name}.png" for name in ("bounds", "choices"))]
    assert re.findall(r"^figure: (.*)$", output, re.MULTILINE) == list(map(str, figures))
    assert all(each.read_bytes().startswith(b"\x89PNG") for each in figures)
    tables = re.split(r"^(?=SOR|heat)", output, flags=re.MULTILINE)[1:]
    assert [table.partition("  ")[0] for table in tables] == [
        "SOR, high variance",
        "SOR, low variance",
        "heat, SSOR-CG",
    ]
    for table in tables:
        found = re.findall(r"^(\S.*?)  +([\d,]+) +[\d,]+$", table, re.MULTILINE)
        total = {name: int(iterations.replace(",", "")) for name, iterations in found}
        assert len(total) == (9 if "heat" in table else 10)
        if "heat" in table:
            assert total["CG"] > total["omega = 1.95"] > total["omega = 1.5"] > total["omega = 1.0"]
        else:
            assert total["omega = 1.0"] > total["omega = 1.4"] > total["omega = 1.8"] > total["best arm of each system"]
            assert total["omega = 1.0"] > total["Tsallis-INF"] > total["best arm of each system"]
        least = min(total.values())
        assert total["Tsallis-INF"] > total["ChebCB"] > least
    assert "differ by at most 0 iterations" in output


def test_slstm_forecast(tmp_path: Path) -> None:
    pytest.importorskip("statsmodels")
    figure = tmp_path / "slstm_forecast.png"
    output = run("slstm_forecast.py", "--quick", "--figure", str(figure), OMP_NUM_THREADS="1")

    assert figure.read_bytes().startswith(b"\x89PNG")
    rows = re.findall(r"^(\S.*?) {2,}(\d\.\d+) +(\d\.\d+) +(\d\.\d+)(?: |$)", output, re.MULTILINE)
    errors = {name: [float(x) for x in numbers] for name, *numbers in rows}
    assert list(errors) == ["sLSTM, 4 heads", "torch.nn.LSTM", "as last year", "no change"]
    for name in ("sLSTM, 4 heads", "torch.nn.LSTM"):
        assert sum(errors[name]) < sum(errors["no change"])
    assert "0 of 13,520 numbers differ from the whole run's" in output


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
    assert output.startswith("accelerated backbone.layers.0.mixer: MambaMixer as a whole, ")
    difference = re.search(r"^largest difference of the first 6 losses: (\S+) bits$", output, re.MULTILINE)
    assert difference is not None
    assert float(difference[1]) < 1e-4
    rows = re.findall(r"^(training|reading|writing) +\S+ +\S+ +(\S+)$", output, re.MULTILINE)
    assert [task for task, _ in rows] == ["training", "reading", "writing"]
    assert all(float(ratio) > 0 for _, ratio in rows)
    assert "(and as transformers' own, the same):\ndef " in output


def test_tirex_forecast(tmp_path: Path) -> None:
    pytest.importorskip("statsmodels")
    pytest.importorskip("tirex")
    figure = tmp_path / "tirex_forecast.png"
    output = run("tirex_forecast.py", "--quick", "--figure", str(figure), OMP_NUM_THREADS="1")

    assert figure.read_bytes().startswith(b"\x89PNG")
    assert output.startswith("accelerated blocks.0.slstm_layer.slstm_cell: sLSTMCell")
    difference = re.search(r"^largest difference of the quantiles: (\S+) of their range$", output, re.MULTILINE)
    assert difference is not None
    assert float(difference[1]) < 2**-12  # for so few steps and layers
    assert len(re.findall(r"^\d+ series +\S+ +\S+ +\S+$", output, re.MULTILINE)) == 2


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


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("mdp_gridworld.py", r"^outwards from the goal +\d+ +\S+ +\S+$"),
        ("robust_walk.py", r"^policy against all winds +-9.3171 in its worst wind$"),
        ("risk_cvar.py", r"^  0.25     1.040     -2 "),
        ("average_riverswim.py", r"^a tenth( +\d+){4}   \d+ plans$"),
        ("latent_bandit.py", r"^    8   6.1972    6.80     37$"),
        ("linear_mixture.py", r"^exploring, error of theta( +\S+){4}$"),
    ],
)
def test_decision_processes(script: str, expected: str, tmp_path: Path) -> None:
    """They assert their numbers themselves."""
    figure = tmp_path / "figure.png"
    quick = ["--quick"] if script in ("mdp_gridworld.py", "average_riverswim.py", "linear_mixture.py") else []
    output = run(script, *quick, "--figure", str(figure))
    assert figure.read_bytes().startswith(b"\x89PNG") and str(figure) in output
    assert re.search(expected, output, re.MULTILINE), output


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("deep_cg.py", r"^ +64 x 64 +random +\d{3} +\d+ +[4-8]$"),
        ("refinement.py", r"^ +31 x 31 +23 +\d+ +6.8e-02 2.6e-02 5.3e-03 "),
        ("schroedinger_bridge.py", r"^  4 rounds: 0\.\d+   drift \[ 1\.0\d* +-0\.4"),
        ("trajectory_smoothing.py", r"^ +10( +\d+){2} +0.1\d "),
        ("halpern_games.py", r"^  extragradient needs [6-9]\.\d times as many as variance-reduced Halpern$"),
        ("spdinv.py", r"^Picard +10 +\S+ +\S+ +converged, max_steps$"),
        ("dsa.py", r"^diffusion synthetic acceleration +5 \(0\.07\d+\) +6 \(0\.15\d+\) "),
        ("rti_diffusion.py", r"^last 5, from the last plan +0\.022 +7\.4 +0\.0 "),
    ],
)
def test_fixed_points(script: str, expected: str, tmp_path: Path) -> None:
    """They assert their numbers themselves."""
    figure = tmp_path / "figure.png"
    output = run(script, "--quick", "--figure", str(figure))
    assert figure.read_bytes().startswith(b"\x89PNG") and str(figure) in output
    assert re.search(expected, output, re.MULTILINE), output


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("label_propagation.py", r"^combs +f - f\* after 1, 50, 100 updates 7.21e\+08  1.92e\+06  8.24e\+04$"),
        ("constrained_logistic.py", r"^\d+ Newton steps, [\d,]+ projections, loss 0\.\d+$"),
        ("pde_constrained.py", r"^grid of 3 x 3: 3 to [34] Newton steps, \d{3},\d{3} projections on average$"),
        ("lasso_path.py", r"^exact blocks +\d steps, active set known from step \d$"),
    ],
)
def test_coordinate_descent(script: str, expected: str, tmp_path: Path) -> None:
    """They assert their numbers themselves."""
    figure = tmp_path / "figure.png"
    output = run(script, "--quick", "--figure", str(figure))
    assert figure.read_bytes().startswith(b"\x89PNG") and str(figure) in output
    assert re.search(expected, output, re.MULTILINE), output


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("hopfield_retrieval.py", r"^ +300 +2\d\.\d% +\S+ up\. +8\d\.\d% +\S+ up\.$"),
        ("hopfield_bags.py", r"the largest weight is a nine in ([6-9]\d\.\d|100\.0)% of the bags"),
    ],
)
def test_hopfield_networks(script: str, expected: str, tmp_path: Path) -> None:
    """They assert themselves that retrieval converges, lowers the energy and is within the bound."""
    figure = tmp_path / "figure.png"
    output = run(script, "--quick", "--figure", str(figure))
    assert figure.read_bytes().startswith(b"\x89PNG") and str(figure) in output
    assert re.search(expected, output, re.MULTILINE), output


def test_monotone_dbm(tmp_path: Path) -> None:
    figure = tmp_path / "monotone_dbm.png"
    output = run("monotone_dbm.py", "--quick", "--figure", str(figure))

    assert figure.read_bytes().startswith(b"\x89PNG")
    rows = re.findall(r"^(\w+ half) +(\w+ machine) +(\d+\.\d) % +(\d\.\d+)$", output, re.MULTILINE)
    assert [row[:2] for row in rows] == [
        (seen, which) for seen in ("upper half", "left half") for which in ("monotone machine", "restricted machine")
    ]
    assert all(float(error) < 2 for *_, error in rows)
    assert "all of them converged: True" in output


def test_graph_solver(tmp_path: Path) -> None:
    figure = tmp_path / "graph_solver.png"
    output = run("graph_solver.py", "--quick", "--figure", str(figure), OMP_NUM_THREADS="1")

    assert figure.read_bytes().startswith(b"\x89PNG")
    rows = re.findall(r"^(\S.*?) {2,}(\S+ states) +(\d+\.\d) % +(\d\.\d+)$", output, re.MULTILINE)
    assert [row[:2] for row in rows] == [
        (way, size) for way in ("convergent graph solver", "messages alone") for size in ("20-49 states", "100 states")
    ]
    for _, _, error, optimal in rows:
        assert float(error) < 15 and float(optimal) > 0.5  # a random action is optimal one time in seven


def test_deq_sequence(tmp_path: Path) -> None:
    """The equilibrium stores little more than one application of its layer, however many steps the solver takes."""
    figure = tmp_path / "deq_sequence.png"
    output = run("deq_sequence.py", "--quick", "--figure", str(figure))

    assert figure.read_bytes().startswith(b"\x89PNG")
    rows = re.findall(r"^(GRU, \d x|DEQ) +\d+\.\d % +12,298 +(\d\.\d\d) MB +\d\.\d\d$", output, re.MULTILINE)
    kept = {name: float(megabytes) for name, megabytes in rows}
    assert list(kept) == ["GRU, 1 x", "GRU, 4 x", "GRU, 8 x", "DEQ"]
    assert kept["DEQ"] < 1.5 * kept["GRU, 1 x"] < 0.5 * kept["GRU, 4 x"] < 0.3 * kept["GRU, 8 x"]
    assert "; 0 of 240 states did not converge" in output


def test_monotone_deq(tmp_path: Path) -> None:
    """The script asserts itself that the state does not depend on the start."""
    figure = tmp_path / "monotone_deq.png"
    output = run("monotone_deq.py", "--quick", "--figure", str(figure), OMP_NUM_THREADS="1")

    assert figure.read_bytes().startswith(b"\x89PNG")
    rows = re.findall(r"^(\w+, \w+) +\d+\.\d % +([\d,]+)$", output, re.MULTILINE)
    assert [name for name, _ in rows] == [
        f"{name}, {kind}" for kind in ("dense", "convolutional") for name in ("monotone", "plain")
    ]
    sizes = [int(size.replace(",", "")) for _, size in rows]
    assert all(abs(one - other) < 0.02 * other for one, other in zip(sizes[::2], sizes[1::2], strict=True))
    steps = re.findall(
        r"^ +(\d+) steps of forward-backward with .*, (\d+) of peaceman-rachford with", output, re.MULTILINE
    )
    assert len(steps) == 2 and all(int(pr) < int(fb) for fb, pr in steps)  # soon after the start of training
