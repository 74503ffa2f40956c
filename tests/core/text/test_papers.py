"""The files that reproduce papers run with --quick, assert their numbers themselves, and say what they show."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from docs.gallery_sources import GROUPS, Program, programs
from tests.support.scripts import run_script

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

EXAMPLES = Path(__file__).parents[3] / "examples"
PAPERS = {program.path.stem: program for program in programs(EXAMPLES) if program.path.parent.name == "papers"}
#: The times that docstrings state
TIMES = (
    "seconds",
    "3 to 60 seconds",
    "10 seconds to 3 minutes",
    "20 seconds to 6 minutes",
    "1 to 12 minutes",
    "2 to 20 minutes",
)
#: Lines that files without a test of their own print
EXPECTED = {
    "average_riverswim": r"^a tenth( +\d+){4}   \d+ plans$",
    "constrained_logistic": r"^\d+ Newton steps, [\d,]+ projections, loss 0\.\d+$",
    "deep_cg": r"^ +64 x 64 +random +\d{3} +\d+ +[4-8]$",
    "dsa": r"^diffusion synthetic acceleration +5 \(0\.07\d+\) +6 \(0\.15\d+\) ",
    "halpern_games": r"^  extragradient needs [6-9]\.\d times as many as variance-reduced Halpern$",
    "hopfield_bags": r"the largest weight is a nine in ([6-9]\d\.\d|100\.0)% of the bags",
    "hopfield_retrieval": r"^ +300 +2\d\.\d% +\S+ up\. +8\d\.\d% +\S+ up\.$",
    "label_propagation": r"^combs +f - f\* after 1, 50, 100 updates 7.21e\+08  1.92e\+06  8.24e\+04$",
    "lasso_path": r"^exact blocks +\d steps, active set known from step \d$",
    "latent_bandit": r"^    8   6.1972    6.80     37$",
    "linear_mixture": r"^exploring, error of theta( +\S+){4}$",
    "pde_constrained": r"^grid of 3 x 3: 3 to [34] Newton steps, \d{3},\d{3} projections on average$",
    "refinement": r"^ +31 x 31 +23 +\d+ +6.8e-02 2.6e-02 5.3e-03 ",
    "risk_cvar": r"^  0.25     1.040     -2 ",
    "robust_walk": r"^policy against all winds +-9.3171 in its worst wind$",
    "rti_diffusion": r"^last 5, from the last plan +0\.022 +7\.4 +0\.0 ",
    "schroedinger_bridge": r"^  4 rounds: 0\.\d+   drift \[ 1\.0\d* +-0\.4",
    "spdinv": r"^Picard +10 +\S+ +\S+ +converged, max_steps$",
    "trajectory_smoothing": r"^ +10( +\d+){2} +0.1\d ",
}


def packages(program: Program) -> set[str]:
    """Return the packages that a file imports at its top."""
    imports = [node for node in ast.parse(program.source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    tops = {(name or "").partition(".")[0] for name in names}
    return {name for name in tops - sys.stdlib_module_names - {"fastiter"} if not name.startswith("_")}


def run(name: str, folder: Path, *arguments: str, **environment: str) -> str:
    """Run a file with --quick; return what it prints, which has to name the figure that it has drawn."""
    for package in packages(PAPERS[name]):
        pytest.importorskip(package)
    figure = folder / f"{name}.png"
    output = run_script(PAPERS[name].path, "--quick", "--figure", str(figure), *arguments, **environment)
    assert figure.read_bytes().startswith(b"\x89PNG") and str(figure) in output
    return output


@pytest.mark.parametrize("name", PAPERS)
def test_fields(name: str) -> None:
    """The docstring names a paper with its year, and says what the file shows and what it does not show."""
    fields = PAPERS[name].fields
    assert list(fields) == ["Paper", "Shows", "Does not show", "Starts from"]
    assert all(re.search(r" \((?:19|20)\d\d\)", paper) for paper in fields["Paper"].split("; "))
    assert len(re.findall(r"arXiv", fields["Paper"])) == len(re.findall(r"arXiv \d{4}\.\d{4,5}\b", fields["Paper"]))
    assert fields["Starts from"] in GROUPS


def times(docstring: str) -> list[str]:
    """Return the comments that must state a time: those on commands without options, and others that state one."""
    commands = re.findall(r"^ +(?:python|torchrun .*) examples/\S+\.py( .*)?$", docstring, flags=re.MULTILINE)
    comments = [(options.partition("#")[0].strip(), options.partition("#")[2].strip()) for options in commands]
    return [comment for options, comment in comments if not options or re.search(r"\b(second|minute)s?\b", comment)]


def test_times_are_found() -> None:
    options = ("  # soon", " --n 3  # a minute; more", " --help", " --m 4  # others")
    text = "".join(f"    python examples/a.py{each}\n" for each in options)
    assert times(text) == ["soon", "a minute; more"]
    assert times("    torchrun -n 2 examples/a.py\n") == [""]


def test_stated_times_are_ranges() -> None:
    """Every time has one form: a range, one of those that papers/README.md lists."""
    stated = {each.path.name: times(each.docstring) for each in programs(EXAMPLES)}
    assert sum(map(len, stated.values())) > 50
    wrong = [(name, each) for name, found in stated.items() for each in found if each.split("; ")[0] not in TIMES]
    assert wrong == []
    rule = (EXAMPLES / "papers" / "README.md").read_text()
    assert all(f"| {each} |" in rule for each in TIMES)


def test_examples_to_start_from_are_ten() -> None:
    """All of them are in a group of the gallery; every group has a program."""
    everything = programs(EXAMPLES)
    assert len(everything) - len(PAPERS) == 10
    assert {program.fields["Starts from"] for program in everything} == set(GROUPS)


def test_deq_sequence(tmp_path: Path) -> None:
    """The equilibrium stores little more than one application of its layer, however many steps the solver takes."""
    output = run("deq_sequence", tmp_path)
    rows = re.findall(r"^(GRU, \d x|DEQ) +\d+\.\d % +12,298 +(\d\.\d\d) MB +\d\.\d\d$", output, re.MULTILINE)
    kept = {name: float(megabytes) for name, megabytes in rows}
    assert list(kept) == ["GRU, 1 x", "GRU, 4 x", "GRU, 8 x", "DEQ"]
    assert kept["DEQ"] < 1.5 * kept["GRU, 1 x"] < 0.5 * kept["GRU, 4 x"] < 0.3 * kept["GRU, 8 x"]
    assert "; 0 of 240 states did not converge" in output


def test_graph_solver(tmp_path: Path) -> None:
    output = run("graph_solver", tmp_path, OMP_NUM_THREADS="1")
    rows = re.findall(r"^(\S.*?) {2,}(\S+ states) +(\d+\.\d) % +(\d\.\d+)$", output, re.MULTILINE)
    assert [row[:2] for row in rows] == [
        (way, size) for way in ("convergent graph solver", "messages alone") for size in ("20-49 states", "100 states")
    ]
    for _, _, error, optimal in rows:
        assert float(error) < 15 and float(optimal) > 0.5  # a random action is optimal one time in seven


def test_learning_to_relax(tmp_path: Path) -> None:
    output = run("learning_to_relax", tmp_path)

    figures = [tmp_path / f"learning_to_relax{name}.png" for name in ("", "_bounds", "_choices")]
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


def test_low_precision_training(tmp_path: Path) -> None:
    output = run("low_precision_training", tmp_path)
    rows = re.findall(r"^(\S.*?) {2,}(\d+\.\d+) +(\d+\.\d+) +(-?\d+\.\d+)$", output, re.MULTILINE)
    above = {name: float(difference) for name, _, _, difference in rows}
    assert len(above) == 8
    assert above["float32"] == 0
    close = ("bf16", "FP8: E4M3, E5M2", "MXFP8: E4M3, E5M2", "int8", "fixed point, 8 bits")
    assert all(abs(above[name]) < 0.1 for name in close)
    assert 0 < above["MXFP4, stochastic"] < 0.5
    assert all(float(loss) < 5.8 for _, loss, _, _ in rows)  # it starts at log2 of the alphabet, 6.5


def test_monotone_dbm(tmp_path: Path) -> None:
    output = run("monotone_dbm", tmp_path)
    rows = re.findall(r"^(\w+ half) +(\w+ machine) +(\d+\.\d) % +(\d\.\d+)$", output, re.MULTILINE)
    assert [row[:2] for row in rows] == [
        (seen, which) for seen in ("upper half", "left half") for which in ("monotone machine", "restricted machine")
    ]
    assert all(float(error) < 2 for *_, error in rows)
    assert "all of them converged: True" in output


def test_monotone_deq(tmp_path: Path) -> None:
    """The script asserts itself that the state does not depend on the start."""
    output = run("monotone_deq", tmp_path, OMP_NUM_THREADS="1")
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


def test_pararnn_lm(tmp_path: Path) -> None:
    output = run("pararnn_lm", tmp_path, OMP_NUM_THREADS="1")
    found = re.findall(r"^(ParaGRU|torch\.nn\.GRU) +(\S+) ", output, re.MULTILINE)
    losses = {name: float(loss) for name, loss in found}
    assert losses.keys() == {"ParaGRU", "torch.nn.GRU"}
    assert max(losses.values()) < 5.8  # they start at log2 of the alphabet, 6.5
    difference = re.search(r"differ from the loop's by at most (\S+),", output)
    assert difference is not None
    assert float(difference[1]) < 1e-3


def test_qfx_digits(tmp_path: Path) -> None:
    output = run("qfx_digits", tmp_path, "--export", str(tmp_path / "hls"))
    rows = re.findall(r"^(\d bits|K = \d) +(\S+) +(\S+) +(\S+) +\S+$", output, re.MULTILINE)
    assert [name for name, *_ in rows] == ["8 bits", "4 bits", "3 bits", "K = 2"]
    accuracies = {name: [float(x) for x in numbers] for name, *numbers in rows}
    assert min(accuracies["8 bits"]) > 94
    for name, gained in (("4 bits", 3), ("3 bits", 5)):  # percent by which QFX exceeds rounding after training
        after_training, _, learned = accuracies[name]
        assert learned > after_training + gained
    assert "the testbench says: 497 samples, 0 codes differ" in output
    assert (tmp_path / "hls" / "model.json").exists()


def test_slstm_forecast(tmp_path: Path) -> None:
    output = run("slstm_forecast", tmp_path, OMP_NUM_THREADS="1")
    rows = re.findall(r"^(\S.*?) {2,}(\d\.\d+) +(\d\.\d+) +(\d\.\d+)(?: |$)", output, re.MULTILINE)
    errors = {name: [float(x) for x in numbers] for name, *numbers in rows}
    assert list(errors) == ["sLSTM, 4 heads", "torch.nn.LSTM", "as last year", "no change"]
    for name in ("sLSTM, 4 heads", "torch.nn.LSTM"):
        assert sum(errors[name]) < sum(errors["no change"])
    assert "0 of 13,520 numbers differ from the whole run's" in output


def test_state_tracking(tmp_path: Path) -> None:
    output = run("state_tracking", tmp_path, "--processes", "1")
    rows = re.findall(r"^(\S.*\]|.*complex) +((?:\d\.\d{3} \(\d\.\d{3}\) *){3})$", output, re.MULTILINE)
    assert len(rows) == 7
    accuracies = [float(number) for _, numbers in rows for number in re.findall(r"\d\.\d{3}", numbers)]
    assert all(0 < accuracy <= 1 for accuracy in accuracies)


def test_tirex_forecast(tmp_path: Path) -> None:
    output = run("tirex_forecast", tmp_path, OMP_NUM_THREADS="1")
    assert output.startswith("accelerated 2 modules, blocks.*.slstm_layer.slstm_cell: sLSTMCell()")
    difference = re.search(r"^largest difference of the quantiles: (\S+) of their range$", output, re.MULTILINE)
    assert difference is not None
    assert float(difference[1]) < 2**-12  # for so few steps and layers
    assert len(re.findall(r"^\d+ series +\S+ +\S+ +\S+$", output, re.MULTILINE)) == 2


@pytest.mark.parametrize("name", [name for name in PAPERS if f"test_{name}" not in globals()])
def test_papers(name: str, tmp_path: Path) -> None:
    """They assert their numbers themselves."""
    output = run(name, tmp_path, OMP_NUM_THREADS="1")
    assert re.search(EXPECTED.get(name, ""), output, re.MULTILINE), output
