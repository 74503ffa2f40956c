"""An existing torch model, sped up by one call: replace(model).

The model is an ordinary tagger: an embedding, a bidirectional LSTM of two layers, a GRU with weight normalisation, a
linear layer. Its recurrent layers are replaced in place, with the same parameters; the outputs are compared, and
prediction and training are timed with torch's layers and with fastiter's, in turns.

    python examples/replace_lstm.py            # 3 to 60 seconds; writes replace_lstm.png next to this file
    python examples/replace_lstm.py --help

:Starts from: a model
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _script import OURS, THEIRS, command_line, figure_option, option, pair_of_bars, progress, save
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrizations import weight_norm

from fastiter.torch import replace, restore

WORDS, TAGS = 5000, 20


@dataclass(frozen=True)
class Options:
    hidden: int = option(128, "width of the layers", 16)
    batch: int = option(16, "sentences in a batch", 4)
    length: int = option(100, "words in a sentence", 20)
    rounds: int = option(15, "rounds of timing", 2)
    figure: Path = figure_option(__file__)


# ---- An existing model ----------------------------------------------------------------------------------------------


class Tagger(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, hidden)
        self.encoder = nn.LSTM(hidden, hidden // 2, num_layers=2, batch_first=True, dropout=0.1, bidirectional=True)
        self.smoother = weight_norm(nn.GRU(hidden, hidden, batch_first=True), "weight_hh_l0")
        self.output = nn.Linear(hidden, TAGS)

    def forward(self, words: Tensor) -> Tensor:
        h, _ = self.encoder(self.embedding(words))
        h, _ = self.smoother(h)
        return self.output(h)


# ---- With torch's layers, with fastiter's ---------------------------------------------------------------------------


def predict(model: Tagger, words: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(words)


def train(model: Tagger, optimizer: torch.optim.Optimizer, words: Tensor, tags: Tensor) -> float:
    model.train()
    loss = cross_entropy(model(words).flatten(0, 1), tags.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def in_turns(calls: list[Callable[[], object]], rounds: int, bar: Any) -> list[float]:
    """The minimum milliseconds of each call."""
    fastest = [float("inf")] * len(calls)
    for turn in range(rounds + 1):  # the first one warms up
        for i, call in enumerate(calls):
            started = time.perf_counter()
            call()
            if turn > 0:
                fastest[i] = min(fastest[i], 1e3 * (time.perf_counter() - started))
            bar.update()
    return fastest


def draw(times: dict[str, list[float]], path: Path) -> None:
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    theirs, ours = zip(*times.values(), strict=True)
    pair_of_bars(axes, list(times), theirs, ours, "{:.1f}")
    axes.set(ylabel="milliseconds", title="A tagger with an LSTM and a GRU, before and after replace(model)")
    axes.legend(handles=[Patch(color=THEIRS, label="torch.nn"), Patch(color=OURS, label="fastiter")], frameon=False)
    save(figure, path)


def main() -> None:
    options = command_line(Options, __doc__)
    torch.manual_seed(0)
    words, tags = (torch.randint(n, (options.batch, options.length)) for n in (WORDS, TAGS))
    model = Tagger(options.hidden)
    before = copy.deepcopy(model)

    model = replace(model, verbose=True)  # the only change

    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (before, model)]
    difference = (predict(model, words) - predict(before, words)).abs().max().item()
    print(f"\nlargest difference of the outputs: {difference:.1e}")
    losses = []
    for m, optimizer in zip((before, model), optimizers, strict=True):
        torch.manual_seed(1)  # for the dropout between the layers
        losses.append([train(m, optimizer, words, tags) for _ in range(3)])
    apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
    print(f"largest difference of three losses in training: {apart:.1e}")

    both = list(zip((before, model), optimizers, strict=True))
    work: dict[str, list[Callable[[], object]]] = {
        "prediction": [partial(predict, m, words) for m, _ in both],
        "training step": [partial(train, m, o, words, tags) for m, o in both],
    }
    with progress(2 * len(work) * (options.rounds + 1), "runs") as bar:
        times = {name: in_turns(calls, options.rounds, bar) for name, calls in work.items()}
    print(f"\n{'milliseconds':16}{'torch.nn':>10}{'fastiter':>10}{'ratio':>8}")
    for name, (theirs, ours) in times.items():
        print(f"{name:16}{theirs:10.2f}{ours:10.2f}{theirs / ours:8.2f}")
    draw(times, options.figure)
    print("\nback to torch's:")
    restore(model, verbose=True)


if __name__ == "__main__":
    main()
