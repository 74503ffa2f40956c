"""An existing torch model, sped up by one call: replace(model).

A tagger as in any existing code: an embedding, a bidirectional LSTM of two layers, a GRU with weight normalisation, a
linear layer. Its recurrent layers are replaced in place, with the same parameters; the outputs are compared, and
prediction and training are timed with torch's layers and with fastiter's, in turn.

    python examples/replace_lstm.py            # half a minute on two cores
    python examples/replace_lstm.py --help
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrizations import weight_norm

from fastiter.torch import replace, restore

WORDS, TAGS = 5000, 20


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="replace(model): an existing model on fastiter's kernels.")
    parser.add_argument("--hidden", type=int, default=128, help="width of the layers (%(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="sentences in a batch (%(default)s)")
    parser.add_argument("--length", type=int, default=100, help="words in a sentence (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a small model and few turns, to see that it runs")
    if parser.parse_args().quick:
        parser.set_defaults(hidden=16, batch=4, length=20, rounds=2)
    return parser.parse_args()


# ---- Somebody's model -----------------------------------------------------------------------------------------------


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


def in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least seconds of each call."""
    least = dict.fromkeys(calls, float("inf"))
    for turn in range(rounds + 1):  # the first one warms up
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn > 0:
                least[name] = min(least[name], time.perf_counter() - started)
    return least


def main() -> None:
    options = parse_arguments()
    torch.manual_seed(0)
    words, tags = (torch.randint(n, (options.batch, options.length)) for n in (WORDS, TAGS))
    model = Tagger(options.hidden)
    before = copy.deepcopy(model)

    model = replace(model, verbose=True)  # this is all

    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (before, model)]
    difference = (predict(model, words) - predict(before, words)).abs().max().item()
    print(f"\nlargest difference of the outputs: {difference:.1e}")
    losses = []
    for m, optimizer in zip((before, model), optimizers, strict=True):
        torch.manual_seed(1)  # of the dropout between the layers
        losses.append([train(m, optimizer, words, tags) for _ in range(3)])
    apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
    print(f"largest difference of three losses in training: {apart:.1e}")

    both = list(zip((before, model), optimizers, strict=True))
    work = {
        "prediction": [lambda m=m: predict(m, words) for m, _ in both],
        "training step": [lambda m=m, o=o: train(m, o, words, tags) for m, o in both],
    }
    print(f"\n{'milliseconds':16}{'torch.nn':>10}{'fastiter':>10}{'ratio':>8}")
    for name, calls in work.items():
        least = in_turns(dict(zip(("torch.nn", "fastiter"), calls, strict=True)), options.rounds)
        theirs, ours = least["torch.nn"], least["fastiter"]
        print(f"{name:16}{1e3 * theirs:10.2f}{1e3 * ours:10.2f}{theirs / ours:8.2f}")
    print("\nback to torch's:")
    restore(model, verbose=True)


if __name__ == "__main__":
    main()
