"""Train a character-level language model on real text, with fastiter and with torch.nn, and compare.

The text is Python itself: the modules at the top of the standard library, about five megabytes on every machine.
Two models, Embedding -> LSTM -> Linear, start from the same weights and see the same batches; one has
`fastiter.torch.nn.LSTM` in the middle, the other `torch.nn.LSTM`. They take turns, so that both meet the same machine.
Their losses agree to rounding at first; training amplifies rounding, so that after some hundred steps they agree to a
hundredth of a bit. Two runs of torch.nn do the same if the last bits of their first weights differ.

    python examples/char_lm.py            # a minute on two cores; writes char_lm.png beside this file
    python examples/char_lm.py --help
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import fastiter.torch.nn

LEARNING_RATE = 5e-3
FIRST_STEPS = 20  # rounding is not amplified yet
VALIDATION_EVERY = 10  # every tenth file is kept for validation


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Character-level language model: fastiter against torch.nn.")
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps of each model (%(default)s)")
    parser.add_argument("--hidden", type=int, default=128, help="width of the LSTM (%(default)s)")
    parser.add_argument("--layers", type=int, default=1, help="LSTM layers (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="sequences in a batch (%(default)s)")
    parser.add_argument("--length", type=int, default=128, help="characters in a sequence (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the batches and the sample (%(default)s)")
    parser.add_argument("--figure", type=Path, default=Path(__file__).with_suffix(".png"), help="where to draw it")
    parser.add_argument("--quick", action="store_true", help="a few steps of a small model, to see that it runs")
    if parser.parse_args().quick:
        parser.set_defaults(steps=40, hidden=32, batch=8, length=32)
    return parser.parse_args()


# ---- The text -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    """Text as numbers: character i of `alphabet` is the number i."""

    alphabet: str
    train: Tensor
    validation: Tensor

    def order0_entropy(self) -> float:
        """Bits per character of a model that knows how frequent each character is, and nothing else."""
        frequency = torch.bincount(self.validation).double() / len(self.validation)
        return -torch.special.xlogy(frequency, frequency).sum().item() / math.log(2)

    def batches(self, steps: int, batch: int, length: int, seed: int) -> Tensor:
        """Random stretches of the training text, (steps, batch, length + 1): inputs and, one later, targets."""
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(len(self.train) - length, (steps, batch, 1), generator=generator)
        return self.train[starts + torch.arange(length + 1)]


def load_corpus() -> Corpus:
    """The standard library's modules in alphabetical order, split by file."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    texts = [file.read_bytes().decode("ascii", "replace").replace("\N{REPLACEMENT CHARACTER}", "?") for file in files]
    alphabet = "".join(sorted(set("".join(texts))))
    number = {character: i for i, character in enumerate(alphabet)}

    def encode(parts: list[str]) -> Tensor:
        return torch.tensor([number[character] for character in "".join(parts)])

    held_out = texts[::VALIDATION_EVERY]
    kept = [text for i, text in enumerate(texts) if i % VALIDATION_EVERY]
    return Corpus(alphabet, encode(kept), encode(held_out))


# ---- The model ------------------------------------------------------------------------------------------------------


class CharLM(nn.Module):
    """Embedding -> LSTM -> Linear; `lstm` is torch.nn.LSTM or a class with its constructor and results."""

    def __init__(self, lstm: type[nn.Module], characters: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, hidden)
        self.lstm = lstm(hidden, hidden, layers, batch_first=True)
        self.output = nn.Linear(hidden, characters)

    def forward(self, text: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h, state = self.lstm(self.embedding(text), state)
        return self.output(h), state


def bits_per_character(model: CharLM, text: Tensor) -> Tensor:
    """Mean surprise at each next character; text (batch, length + 1)."""
    logits, _ = model(text[:, :-1])
    return cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()) / math.log(2)


@torch.no_grad()
def validation_bits(model: CharLM, text: Tensor, batch: int, length: int = 512) -> float:
    """Bits per character over the whole validation text, cut into stretches of `length`."""
    stretches = text[: (len(text) - 1) // length * length + 1].unfold(0, length + 1, length)
    total = sum(bits_per_character(model, part).item() * len(part) for part in stretches.split(batch))
    return total / len(stretches)


@torch.no_grad()
def sample(model: CharLM, alphabet: str, seed: int, count: int = 200, prompt: str = "\ndef ") -> str:
    """Let the model write: one character at a time, carrying the state."""
    generator = torch.Generator().manual_seed(seed)
    text, state = torch.tensor([[alphabet.index(character) for character in prompt]]), None
    written = prompt
    for _ in range(count):
        logits, state = model(text, state)
        text = torch.multinomial(logits[:, -1].softmax(-1), 1, generator=generator)
        written += alphabet[text.item()]
    return written.strip()


# ---- Training -------------------------------------------------------------------------------------------------------


@dataclass
class Training:
    """One model, its optimizer and schedule, and the measurements so far."""

    name: str
    model: CharLM
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    bar: tqdm
    losses: list[float] = field(default_factory=list)  # bits per character, one per step
    rates: list[float] = field(default_factory=list)  # characters per second, one per chunk of steps

    @classmethod
    def start(cls, name: str, model: CharLM, steps: int, position: int) -> Training:
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
        form = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps, {postfix}"
        bar = tqdm(total=steps, desc=name, position=position, bar_format=form)
        return cls(name, model, optimizer, schedule, bar)

    def step(self, text: Tensor) -> None:
        loss = bits_per_character(self.model, text)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.losses.append(loss.item())

    def run(self, chunk: Tensor) -> None:
        """One step per batch of the chunk (steps, batch, length + 1), timed as a whole."""
        started = time.perf_counter()
        for text in chunk:
            self.step(text)
        self.rates.append(chunk[..., 1:].numel() / (time.perf_counter() - started))
        self.bar.update(len(chunk))
        self.bar.set_postfix_str(f"{self.losses[-1]:.2f} bits/char, {self.speed():,.0f} chars/s")

    def speed(self) -> float:
        return statistics.median(self.rates)

    def recent_loss(self) -> float:
        """The loss of one batch is noisy: the mean of the last tenth."""
        return statistics.fmean(self.losses[-max(1, len(self.losses) // 10) :])


def take_turns(trainings: list[Training], batches: Tensor, turns: int = 20) -> None:
    """Train all models on the same batches, a chunk at a time; each chunk begins with another one."""
    for i, chunk in enumerate(batches.tensor_split(turns)):
        for training in trainings if i % 2 == 0 else reversed(trainings):
            training.run(chunk)
    for training in trainings:
        training.bar.close()


def largest_difference(trainings: list[Training], steps: int | None = None) -> float:
    """Between the loss curves, over all steps or the first of them."""
    ours, theirs = (training.losses[:steps] for training in trainings)
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


# ---- The results ----------------------------------------------------------------------------------------------------


def print_results(trainings: list[Training], corpus: Corpus, batch: int) -> None:
    print(f"\n{'bits per character':26}{'train':>10}{'validation':>12}{'characters/s':>16}")
    for training in trainings:
        bits = validation_bits(training.model, corpus.validation, batch)
        print(f"{training.name:26}{training.recent_loss():10.4f}{bits:12.4f}{training.speed():16,.0f}")
    print(f"{'character frequencies only':26}{'':10}{corpus.order0_entropy():12.4f}")
    ours, theirs = trainings
    first, all_steps = largest_difference(trainings, FIRST_STEPS), largest_difference(trainings)
    print(f"\nlargest difference between the loss curves: {all_steps:.1e} bits", end="")
    print(f" ({first:.1e} in the first {FIRST_STEPS} steps)")
    print(f"speed, fastiter / torch.nn (whole training steps): {ours.speed() / theirs.speed():.2f}")


def draw_losses(axes: Axes, trainings: list[Training], entropy: float) -> None:
    ours, theirs = trainings
    axes.plot(ours.losses, color="tab:orange", linewidth=5, alpha=0.55, label=ours.name)
    axes.plot(theirs.losses, color="black", linewidth=0.9, label=theirs.name)
    axes.axhline(entropy, color="grey", linestyle="--", label="character frequencies only")
    axes.set(xlabel="step", ylabel="training loss, bits per character", ylim=(0, None), xlim=(0, len(ours.losses)))
    axes.set_title(f"Same losses (largest difference {largest_difference(trainings):.1e} bits)")
    axes.legend(frameon=False)


def draw_speeds(axes: Axes, trainings: list[Training]) -> None:
    ours, theirs = trainings
    names, speeds = [t.name for t in trainings], [t.speed() / 1000 for t in trainings]
    bars = axes.bar(names, speeds, color=["tab:orange", "dimgrey"], width=0.6)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.set(ylabel="thousand characters per second", ylim=(0, 1.15 * max(speeds)))
    axes.set_title(f"Training speed: {ours.speed() / theirs.speed():.2f} times torch.nn's")


def draw(trainings: list[Training], entropy: float, path: Path) -> None:
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    draw_losses(left, trainings, entropy)
    draw_speeds(right, trainings)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    options = parse_arguments()
    corpus = load_corpus()
    print(f"{len(corpus.train):,} characters to train on, {len(corpus.validation):,} to validate on; ", end="")
    print(f"LSTM {options.layers} x {options.hidden}, batch {options.batch} x {options.length}")

    models = []
    for lstm in (fastiter.torch.nn.LSTM, nn.LSTM):
        torch.manual_seed(options.seed)
        models.append(CharLM(lstm, len(corpus.alphabet), options.hidden, options.layers))
    ours, theirs = models
    theirs.load_state_dict(ours.state_dict())  # the same already, given the same seed; checkpoints fit both ways

    trainings = [
        Training.start("fastiter", ours, options.steps, position=0),
        Training.start("torch.nn", theirs, options.steps, position=1),
    ]
    take_turns(trainings, corpus.batches(options.steps, options.batch, options.length, options.seed))

    print_results(trainings, corpus, options.batch)
    print(f"\nThe fastiter model writes:\n{sample(ours, corpus.alphabet, options.seed)}\n")
    draw(trainings, corpus.order0_entropy(), options.figure)
    print(f"figure: {options.figure}")


if __name__ == "__main__":
    main()
