"""Train a character-level language model with ParaGRU layers, and one with torch.nn.GRU of the same size.

The text and the training are those of char_lm.py. A ParaGRU unit depends only on its own previous state: a step has no
matrix product, and all steps can be solved at once by Newton's method, which would pay off on many cores. On a few
cores the loop is faster. Both give the same result, which is checked at the end.

    python examples/papers/pararnn_lm.py  # 2 to 20 minutes; writes pararnn_lm.png next to this file
    python examples/papers/pararnn_lm.py --help

:Paper: ParaRNN: Unlocking Parallel Training of Nonlinear RNNs for Large Language Models (2025), arXiv 2510.21450
:Shows: the same states by Newton's method along time and by the loop, in training
:Does not show: models of billions of weights, and the speed on a GPU
:Starts from: a training run
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import _paper  # before _language_model, whose folder it adds to the path
import torch
from _language_model import CharLM, Corpus, Training, load_corpus, sample, take_turns, validation_bits
from matplotlib.figure import Figure
from torch import Tensor, nn

from fastiter.torch.nn import ParaGRU

State = tuple[Tensor, ...]
Method = Literal["auto", "sequential", "newton"]


@dataclass(frozen=True)
class Options:
    steps: int = _paper.option(1000, "optimizer steps of each model", 40)
    hidden: int = _paper.option(128, "width of a layer", 32)
    layers: int = _paper.option(2, "recurrent layers")
    heads: int = _paper.option(1, "blocks of ParaGRU's input projections")
    batch: int = _paper.option(32, "sequences in a batch", 8)
    length: int = _paper.option(128, "characters in a sequence", 32)
    seed: int = _paper.option(0, "seed of the weights, the batches and the sample")
    figure: Path = _paper.figure_option(__file__)


class ParaGRUStack(nn.Module):
    """Layers of ParaGRU; the state has one entry per layer."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ParaGRU(width, width, batch_first=True, num_heads=heads) for _ in range(layers))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        last = []
        for layer, h in zip(self.layers, state or [None] * len(self.layers), strict=True):
            x, h = layer(x, h)
            last.append(h)
        return x, tuple(last)

    def solve_by(self, method: Method) -> None:
        for layer in self.layers:
            assert isinstance(layer, ParaGRU)
            layer.method = method


def count_parameters(model: nn.Module) -> int:
    """The number of parameters of the recurrent layers."""
    return sum(p.numel() for p in model.get_submodule("recurrence").parameters())


def draw(ours: Training, theirs: Training, corpus: Corpus, path: Path) -> None:
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    width = max(1, len(ours.losses) // 50)
    for training, color in ((theirs, _paper.THEIRS), (ours, _paper.OURS)):
        axes.plot(*_paper.moving_mean(training.losses, width), color=color, label=training.name)
    axes.axhline(corpus.order0_entropy(), color=_paper.OTHERS, linestyle="--", label="character frequencies only")
    axes.set(xlabel="step", ylabel="training loss, bits per character", xlim=(0, len(ours.losses)))
    axes.set_title("ParaGRU and GRU of the same width (moving mean)")
    axes.legend(frameon=False)
    _paper.save(figure, path)


def print_results(trainings: list[Training], corpus: Corpus, batch: int) -> None:
    print(f"\n{'bits per character':26}{'train':>10}{'validation':>12}{'characters/s':>16}{'recurrent weights':>20}")
    for training in trainings:
        bits = validation_bits(training.model, corpus.validation, batch)
        weights = count_parameters(training.model)
        print(f"{training.name:26}{training.recent_loss():10.4f}{bits:12.4f}{training.speed():16,.0f}{weights:20,}")
    print(f"{'character frequencies only':26}{'':10}{corpus.order0_entropy():12.4f}")
    ours, theirs = trainings
    print(f"\nspeed, ParaGRU / torch.nn.GRU (whole training steps): {ours.speed() / theirs.speed():.2f}")


class Comparison(NamedTuple):
    """Newton's method compared with the loop."""

    difference: float  # largest difference between the states
    ratio: float  # Newton's time divided by the loop's


@torch.no_grad()
def compare_methods(model: CharLM, stack: ParaGRUStack, text: Tensor, repeats: int = 5) -> Comparison:
    x, results, seconds = model.embedding(text), [], []
    methods: tuple[Method, ...] = ("sequential", "newton")
    for method in methods:
        stack.solve_by(method)
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            h, _ = stack(x)
            times.append(time.perf_counter() - started)
        results.append(h)
        seconds.append(min(times))
    stack.solve_by("auto")
    return Comparison((results[1] - results[0]).abs().max().item(), seconds[1] / seconds[0])


def main() -> None:
    options = _paper.command_line(Options, __doc__)
    corpus = load_corpus()
    print(f"{len(corpus.train):,} characters to train on, {len(corpus.validation):,} to validate on; ", end="")
    print(f"{options.layers} layers of {options.hidden}, batch {options.batch} x {options.length}")

    torch.manual_seed(options.seed)
    stack = ParaGRUStack(options.hidden, options.layers, options.heads)
    gru = nn.GRU(options.hidden, options.hidden, options.layers, batch_first=True)
    batches = corpus.batches(options.steps, options.batch, options.length, options.seed)
    model, other = (CharLM(recurrence, len(corpus.alphabet), options.hidden) for recurrence in (stack, gru))
    ours, theirs = Training("ParaGRU", model, batches), Training("torch.nn.GRU", other, batches)
    take_turns([ours, theirs])

    print_results([ours, theirs], corpus, options.batch)
    comparison = compare_methods(model, stack, corpus.validation[: options.batch * 512].view(options.batch, 512))
    print(f"Newton's method: states differ from the loop's by at most {comparison.difference:.1e}, ", end="")
    print(f"in {comparison.ratio:.1f} times its time")
    print(f"\nThe ParaGRU model writes:\n{sample(model, corpus, options.seed)}\n")
    draw(ours, theirs, corpus, options.figure)


if __name__ == "__main__":
    main()
