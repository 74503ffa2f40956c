"""Train a character-level language model with ParaGRU layers, and one with torch.nn.GRU of the same size.

The text and the training are those of char_lm.py. A ParaGRU unit depends only on its own previous state: a step has no
matrix product, and all steps can be solved at once by Newton's method, which would pay on many cores. On a few cores
the loop is faster. Both give the same answer, which is compared at the end.

    python examples/pararnn_lm.py            # a minute and a half on two cores
    python examples/pararnn_lm.py --help

Danieli et al., ParaRNN: Unlocking parallel training of nonlinear RNNs for large language models, 2025.
"""

from __future__ import annotations

import argparse
import time

import torch
from char_lm import CharLM, Corpus, Training, load_corpus, sample, take_turns, validation_bits
from torch import Tensor, nn

from fastiter.torch.nn import ParaGRU

State = tuple[Tensor, ...]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Character-level language model: ParaGRU and torch.nn.GRU.")
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps of each model (%(default)s)")
    parser.add_argument("--hidden", type=int, default=128, help="width of a layer (%(default)s)")
    parser.add_argument("--layers", type=int, default=2, help="recurrent layers (%(default)s)")
    parser.add_argument("--heads", type=int, default=1, help="blocks of ParaGRU's input projections (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="sequences in a batch (%(default)s)")
    parser.add_argument("--length", type=int, default=128, help="characters in a sequence (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the batches and the sample (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few steps of small models, to see that it runs")
    if parser.parse_args().quick:
        parser.set_defaults(steps=40, hidden=32, batch=8, length=32)
    return parser.parse_args()


class ParaGRUStack(nn.Module):
    """Layers of ParaGRU with the arguments of torch.nn.GRU; the state has one entry per layer."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int, batch_first: bool = False, num_heads: int = 1
    ) -> None:
        super().__init__()
        sizes = [input_size] + [hidden_size] * num_layers
        self.layers = nn.ModuleList(
            ParaGRU(sizes[i], hidden_size, num_heads, batch_first=batch_first) for i in range(num_layers)
        )

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        last = []
        for layer, h in zip(self.layers, state or [None] * len(self.layers), strict=True):
            x, h = layer(x, h)
            last.append(h)
        return x, tuple(last)

    def solve_by(self, method: str) -> None:
        for layer in self.layers:
            layer.method = method


def count_parameters(model: CharLM) -> int:
    """The number of parameters of the recurrent layers."""
    return sum(p.numel() for p in model.lstm.parameters())


def print_results(trainings: list[Training], corpus: Corpus, batch: int) -> None:
    print(f"\n{'bits per character':26}{'train':>10}{'validation':>12}{'characters/s':>16}{'recurrent weights':>20}")
    for training in trainings:
        bits = validation_bits(training.model, corpus.validation, batch)
        weights = count_parameters(training.model)
        print(f"{training.name:26}{training.recent_loss():10.4f}{bits:12.4f}{training.speed():16,.0f}{weights:20,}")
    print(f"{'character frequencies only':26}{'':10}{corpus.order0_entropy():12.4f}")
    ours, theirs = trainings
    print(f"\nspeed, ParaGRU / torch.nn.GRU (whole training steps): {ours.speed() / theirs.speed():.2f}")


@torch.no_grad()
def compare_methods(model: CharLM, text: Tensor, repeats: int = 5) -> tuple[float, float]:
    """Largest difference between the states of the loop and of Newton's method, and the ratio of their times."""
    x, results, seconds = model.embedding(text), [], []
    for method in ("sequential", "newton"):
        model.lstm.solve_by(method)
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            h, _ = model.lstm(x)
            times.append(time.perf_counter() - started)
        results.append(h)
        seconds.append(min(times))
    model.lstm.solve_by("auto")
    return (results[1] - results[0]).abs().max().item(), seconds[1] / seconds[0]


def main() -> None:
    options = parse_arguments()
    corpus = load_corpus()
    print(f"{len(corpus.train):,} characters to train on, {len(corpus.validation):,} to validate on; ", end="")
    print(f"{options.layers} layers of {options.hidden}, batch {options.batch} x {options.length}")

    def stack(*sizes: int, batch_first: bool) -> ParaGRUStack:
        return ParaGRUStack(*sizes, batch_first=batch_first, num_heads=options.heads)

    trainings = []
    for name, layers in (("ParaGRU", stack), ("torch.nn.GRU", nn.GRU)):
        torch.manual_seed(options.seed)
        model = CharLM(layers, len(corpus.alphabet), options.hidden, options.layers)
        trainings.append(Training.start(name, model, options.steps, position=len(trainings)))
    take_turns(trainings, corpus.batches(options.steps, options.batch, options.length, options.seed))

    print_results(trainings, corpus, options.batch)
    model = trainings[0].model
    difference, ratio = compare_methods(model, corpus.validation[: options.batch * 512].view(options.batch, 512))
    print(f"Newton's method: states differ from the loop's by at most {difference:.1e}, in {ratio:.1f} times its time")
    print(f"\nThe ParaGRU model writes:\n{sample(model, corpus.alphabet, options.seed)}")


if __name__ == "__main__":
    main()
