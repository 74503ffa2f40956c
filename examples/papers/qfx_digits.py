"""Train a network of fixed-point numbers whose binary points are learned (QFX), and export it to C++ for HLS.

A small network of three linear layers, each followed by a factor and a shift per feature, classifies scikit-learn's
digits. Everything is rounded to W bits: weights, factors, shifts, the inputs and the outputs of layers, 15 tensors in
total, each with its own binary point. Three ways of getting there from trained float32 weights are compared:

- after training: points from the largest magnitudes, without further training;
- frozen points: the same points, and the weights are trained further through the rounding;
- QFX: the points are trained as well.

Then the same with weights and factors that are sums of at most K powers of two, which need no multiplier. At the end
the 4-bit network is written as C++ with ap_fixed types, compiled, and its codes are compared with torch's.

    python examples/papers/qfx_digits.py  # 20 seconds to 6 minutes; writes qfx_digits.png next to this file
    python examples/papers/qfx_digits.py --help

QFX, arXiv 2401.17544. One image of the 497 is 0.2 %: differences below a percent mean nothing.

:Paper: Trainable Fixed-Point Quantization for Deep Learning Acceleration on FPGAs (2024), arXiv 2401.17544
:Shows: learned binary points, above frozen ones at few bits, and multiplier-free sums of powers of two
:Does not show: CIFAR-10 and ImageNet, and the resources of a synthesised design
:Starts from: a training run
"""

from __future__ import annotations

import copy
import shutil
import statistics
import subprocess
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _paper import command_line, figure_option, option, progress, save
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastiter.torch.nn import FixedQuantizer, QuantAffine, QuantPlan, quantize_model
from fastiter.torch.quant import export_hls

TRAINED_ON = 1300  # out of 1797 images
BATCH = 64
SIZES = (64, 64, 32, 10)
TERMS_WIDTH = 8  # bits of weights that are sums of powers of two
EXPORTED_WIDTH = 4
WAYS = ("after training", "frozen points", "QFX")


@dataclass(frozen=True)
class Options:
    widths: tuple[int, ...] = option((8, 6, 5, 4, 3), "bits of all numbers", (8, 4, 3))
    terms: tuple[int, ...] = option((1, 2), "powers of two in a weight", (2,))
    rounding: str = option("RND", "RND, RND_CONV, TRN, ...")
    seeds: int = option(2, "networks to average over", 1)
    epochs: int = option(20, "epochs of training through the rounding", 4)
    figure: Path = figure_option(__file__)
    export: Path | None = option(None, "directory for the C++")


# ---- The data and the network ---------------------------------------------------------------------------------------

Data = tuple[Tensor, Tensor]


def load() -> tuple[Data, Data]:
    """Images of 64 grey values from 0 to 1, and their digits: to train on, and to test."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = torch.from_numpy((digits.data / 16).astype(np.float32))[order]
    labels = torch.from_numpy(digits.target.astype(np.int64))[order]
    return (images[:TRAINED_ON], labels[:TRAINED_ON]), (images[TRAINED_ON:], labels[TRAINED_ON:])


def float_network() -> nn.Sequential:
    layers: list[tuple[str, nn.Module]] = []
    for i, (n, m) in enumerate(pairwise(SIZES), 1):
        layers += [(f"linear{i}", nn.Linear(n, m, bias=False)), (f"affine{i}", QuantAffine(m))]
        layers += [(f"relu{i}", nn.ReLU())] if m != SIZES[-1] else []
    return nn.Sequential(OrderedDict(layers))


def rounded(model: nn.Sequential, images: Tensor, rounding: str, width: int, terms: int | None = None) -> nn.Sequential:
    """The network with all numbers rounded, and points from one pass over the images."""
    other = FixedQuantizer(width, rounding=rounding)
    weight = FixedQuantizer(width, rounding=rounding, terms=terms)
    plans = {
        "linear*": QuantPlan(weight=weight, input=other),
        "affine*": QuantPlan(weight=weight, bias=other, output=other),
    }
    model = quantize_model(model, plans)
    with torch.no_grad():
        model(images)
    return model


def points(model: nn.Module) -> list[Tensor]:
    return [q.point for q in model.modules() if isinstance(q, FixedQuantizer)]


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    images, labels = data
    return 100 * (model(images).argmax(1) == labels).float().mean().item()


def train(model: nn.Module, data: Data, epochs: int, rate: float, point_rate: float, bar: Any) -> None:
    """Adam, with a separate learning rate for binary points; with 0 they stay fixed."""
    images, labels = data
    moving = {id(point) for point in points(model)}
    groups = [{"params": [p for p in model.parameters() if id(p) not in moving], "lr": rate}]
    for point in points(model):
        point.requires_grad_(point_rate > 0)
    if point_rate > 0 and moving:
        groups.append({"params": points(model), "lr": point_rate})
    optimizer = torch.optim.Adam(groups)
    generator = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(BATCH):
            loss = cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        bar.update()


# ---- The comparison -------------------------------------------------------------------------------------------------

Results = dict[str, list[dict[str, float]]]  # for each row of the table: the networks' accuracies in percent


def three_ways(
    start: nn.Sequential, data: tuple[Data, Data], epochs: int, bar: Any
) -> tuple[dict[str, float], nn.Module]:
    """Test accuracies of a rounded network without training, trained with frozen points, and with learned points."""
    learning, testing = data
    accuracies = {WAYS[0]: accuracy(start, testing)}
    for way, point_rate in zip(WAYS[1:], (0.0, 0.05), strict=True):
        model = copy.deepcopy(start)
        train(model, learning, epochs, 1e-3, point_rate, bar)
        accuracies[way] = accuracy(model, testing)
    accuracies["moved"] = sum(bool(a.round() != b.round()) for a, b in zip(points(start), points(model), strict=True))
    return accuracies, model


def compare(options: Options, data: tuple[Data, Data]) -> tuple[float, Results, nn.Module]:
    """Accuracy in float32, the rows of the table, and a network to export."""
    rows: list[tuple[str, int, int | None]] = [(f"{width} bits", width, None) for width in options.widths]
    rows += [(f"K = {terms}", TERMS_WIDTH, terms) for terms in options.terms]
    results: Results = {name: [] for name, _, _ in rows}
    in_float, exported = [], None
    bar = progress(options.seeds * (30 + len(rows) * 2 * options.epochs), "epochs")
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        network = float_network()
        bar.set_postfix_str("float32")
        train(network, data[0], 30, 3e-3, 0.0, bar)
        in_float.append(accuracy(network, data[1]))
        for name, width, terms in rows:
            bar.set_postfix_str(name)
            start = rounded(network, data[0][0], options.rounding, width, terms)
            accuracies, model = three_ways(start, data, options.epochs, bar)
            results[name].append(accuracies)
            if seed == 0 and terms is None and (exported is None or width == EXPORTED_WIDTH):
                exported = model
    bar.close()
    assert exported is not None
    return statistics.fmean(in_float), results, exported


def mean(results: Results, name: str, way: str) -> float:
    return statistics.fmean(accuracies[way] for accuracies in results[name])


def print_results(in_float: float, results: Results) -> None:
    print(f"\n{'test accuracy in %':22}" + "".join(f"{way:>17}" for way in WAYS) + f"{'points moved':>16}")
    print(f"{'float32':22}{in_float:17.1f}")
    for name in results:
        numbers = "".join(f"{mean(results, name, way):17.1f}" for way in WAYS)
        print(f"{name:22}{numbers}{mean(results, name, 'moved'):16.1f}")
    print(f"K: sums of at most K powers of two as weights and factors of {TERMS_WIDTH} bits, no multiplier")


def draw(in_float: float, results: Results, path: Path) -> None:
    figure = Figure(figsize=(8.5, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1), sharey=True)
    for axes, names, label in (
        (left, [n for n in results if "bits" in n], "bits of all numbers"),
        (right, [n for n in results if "K" in n], "powers of two in a weight"),
    ):
        for way, style in zip(WAYS, ("s:", "^--", "o-"), strict=True):
            axes.plot([n.strip("K= bits") for n in names], [mean(results, n, way) for n in names], style, label=way)
        axes.axhline(in_float, color="grey", linewidth=0.8, label="float32")
        axes.set(xlabel=label)
    left.set(ylabel="test accuracy, %", title="Digits in fixed point, all layers rounded")
    left.legend(frameon=False, loc="lower left")
    right.set_title(f"Without multipliers, {TERMS_WIDTH} bits")
    save(figure, path)


# ---- The hardware ---------------------------------------------------------------------------------------------------


def export(model: nn.Module, images: Tensor, directory: Path) -> None:
    """Write the network as C++, compile it and run it on the images."""
    steps = export_hls(model, directory, images)["steps"]
    sums = [step["sum"] for step in steps if "sum" in step]
    print(f"\n{len(steps)} steps as C++, exact sums in {', '.join(sums)}")
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        print("no C++ compiler was found to run them")
        return
    command = [compiler, "-std=c++14", "-O2", "model.cpp", "testbench.cpp", "-o", "testbench"]
    subprocess.run(command, cwd=directory, check=True)
    done = subprocess.run(["./testbench"], cwd=directory, capture_output=True, text=True, check=False)
    print(f"the testbench says: {done.stdout.strip()}")


def main() -> None:
    options = command_line(Options, __doc__)
    torch.set_num_threads(1)  # the network is too small for two threads
    data = load()
    in_float, results, model = compare(options, data)
    print_results(in_float, results)
    draw(in_float, results, options.figure)
    with tempfile.TemporaryDirectory() as scratch:
        export(model, data[1][0], options.export or Path(scratch))


if __name__ == "__main__":
    main()
