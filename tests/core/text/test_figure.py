"""The figure of speeds: it says what the records say, and the committed file is the one that they give."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from bench.harness import figure
from bench.harness.record import BOTH

ROOT = Path(__file__).parents[3]
FIGURE = ROOT / "docs/images/speed.svg"
ZEN4, ZEN5 = "epyc-zen4-2core", "epyc-zen5-2core"


def results(family: str, load: float = 0.1, **sections: list[dict[str, Any]]) -> dict[str, Any]:
    named = {name.replace("_", "-"): records for name, records in sections.items()}
    return {"family": family, "machine": {"load": load}, **named}


def raced(threads: int, work: str = "w", **peers: float) -> dict[str, Any]:
    ratios = {name: {"ratio": {"fresh": 100.0, "reused": ratio}} for name, ratio in peers.items()}
    return {"work": work, "threads": threads, "peers": ratios}


def told(*files: tuple[str, dict[str, Any]]) -> dict[str, list[float]]:
    return {f"{line.row.label}: {line.about()}": line.values for line in figure.lines(files)}


def test_the_committed_figure_is_that_of_the_records() -> None:
    """If it differs: python -m bench report --figure docs/images/speed.svg."""
    assert figure.svg(figure.read()) == FIGURE.read_text()


def test_every_machine_and_family_is_in_the_figure() -> None:
    lines = figure.lines(figure.read())
    assert {line.machine for line in lines} == set(figure.MACHINES.values())
    assert set(figure.MACHINES) == {path.name for path in (ROOT / "bench/results").iterdir()}
    assert {row.label for row in figure.ROWS} == {line.row.label for line in lines}
    assert lines[0].row.label.startswith("whole models")
    assert {"mdp", "bcd", "fixedpoint", "decode"} <= {line.row.family for line in lines}


def test_labels_are_one_line_each_and_say_how_many_were_measured() -> None:
    words = ["".join(element.itertext()) for element in ET.parse(FIGURE).iter() if element.tag.endswith("}text")]
    lines = figure.lines(figure.read())
    assert [word for word in words if re.search(r", n \d+\*?$", word)] == [line.about() for line in lines]
    assert not [word for word in words if "\n" in word]
    assert "prefers-color-scheme: dark" in FIGURE.read_text()


def test_lines_stay_within_the_axis() -> None:
    for shape in ET.parse(FIGURE).iter():
        places = [float(shape.attrib[name]) for name in ("x1", "x2", "cx") if name in shape.attrib]
        assert all(figure.LEFT <= place <= figure.RIGHT for place in places)


@pytest.mark.parametrize("on_two", [True, False])
def test_two_threads_alone_or_one_where_nothing_else_was_measured(on_two: bool) -> None:
    records = [raced(1, torch=3.0), *([raced(2, torch=2.0, jax=5.0)] if on_two else [])]
    expected = {"linear scans: Zen 4, n 1": [2.0]} if on_two else {"linear scans: Zen 4, 1 thread, n 1": [3.0]}
    assert told((ZEN4, results("scan", peers=records))) == expected


def test_no_machine_and_no_file_hides_another() -> None:
    files = [
        (ZEN4, results("scan", peers=[raced(2, torch=2.0)])),
        (ZEN4, results("scan", peers=[raced(2, torch=4.0)])),
        (ZEN5, results("scan", load=2.0, peers=[raced(2, torch=8.0)])),
    ]
    assert told(*files) == {"linear scans: Zen 4, n 2": [2.0, 4.0], "linear scans: Zen 5, n 1*": [8.0]}


def test_the_fastest_peer_counts() -> None:
    solved = [{"work": work, "peer": "p", "ratio": ratio} for work, ratio in (("a", 9.0), ("a", 2.0), ("b", 0.5))]
    grown = [{"ms": 2.0, "all_ms": {"QuantEcon pi": 6.0, "QuantEcon vi": 1.0, "vi": 0.1}}, {"ms": 1.0, "all_ms": {}}]
    operators = [{"work": "a", "threads": 2, "peer": p, "ratio": r} for p, r in (("SciPy", 3.0), ("recorded, x", 1.0))]
    times = [("picard", True, 4.0), ("anderson", True, 2.0), ("jaxopt", False, 3.0), ("torchdeq", False, 5.0)]
    points = [{"work": "a", "threads": 2, "solver": s, "ours": ours, "ms": ms} for s, ours, ms in times]
    assert told(
        (ZEN4, results("mdp", solvers=solved)),
        (ZEN5, results("mdp", never_slower=grown)),
        (ZEN4, results("fixedpoint", solvers=points, prox=operators)),
    ) == {
        "decision processes: Zen 4, 1 thread, n 2": [2.0, 0.5],
        "decision processes: Zen 5, 1 thread, n 1": [0.5],
        "fixed points: Zen 4, n 1": [1.5],
        "proximal operators: Zen 4, n 1": [3.0],
    }


def test_whole_models_are_means_of_their_sizes_and_give_the_headline() -> None:
    def changed(work: str, mode: str, before: float) -> dict[str, Any]:
        return {"work": work, "mode": mode, "threads": 2, "before_ms": before, "after_ms": 2.0, "ratio": 99.0}

    small = [changed("Mamba 32", "forward", 4.0), changed("Mamba 128", "forward", 16.0)]
    small += [changed("LSTM 32-64", "forward", 2.0), {"work": "Mamba 32", "mode": "forward", "threads": 2}]
    small += [changed("xLSTM 32", "training", 3.0), changed("Mamba 32", "step", 1.0)]
    large = [raced(1, "Mamba 256, T 512", transformers=12.0)]
    files = [(ZEN4, results("accelerate", never_slower=small)), (ZEN5, results("accelerate", training=large))]
    lines = told(*files)
    assert lines.pop("whole models, inference: Zen 4, n 1") == pytest.approx([4.0], rel=1e-12)
    assert lines == {
        "whole models, training: Zen 4, n 1": [1.5],
        "whole models, training: Zen 5, 1 thread, n 1": pytest.approx([12.0], rel=1e-12),
        "whole models, one more token: Zen 4, n 1": [0.5],
    }
    assert figure.headline(files) == {"least": "1.5", "median": "4.0", "most": "12"}


@pytest.mark.parametrize(("value", "shown"), [(0.964, "0.96"), (1.04, "1.0"), (9.94, "9.9"), (9.96, "10")])
def test_numbers(value: float, shown: str) -> None:
    assert figure.number(value) == shown
    assert math.isclose(float(shown), value, rel_tol=0.05)


def test_layers_are_those_of_training() -> None:
    grid = [{"cell": cell, "mode": mode, "threads": 2, "ratio": 2.0} for cell in ("gru",) for mode in ("forward", BOTH)]
    assert told((ZEN4, results("rnn", grid=grid))) == {"GRU layers, training: Zen 4, n 1": [2.0]}
