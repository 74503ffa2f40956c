"""Character-level language models on real text, shared by several examples: the text, a model, and training in turns.

The text is Python's own source code: the top-level modules of the standard library, about five megabytes.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from _script import progress
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

VALIDATION_EVERY = 10  # every tenth file is kept for validation

# ---- The text -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    """Text encoded as integers: character i of `alphabet` has the code i."""

    alphabet: str
    train: Tensor
    validation: Tensor

    def order0_entropy(self) -> float:
        """Bits per character of a model that only knows the frequency of each character."""
        frequency = torch.bincount(self.validation).double() / len(self.validation)
        return -float(torch.special.xlogy(frequency, frequency).sum()) / math.log(2)

    def batches(self, steps: int, batch: int, length: int, seed: int) -> Tensor:
        """Random excerpts of the training text, (steps, batch, length + 1): inputs and, shifted by one, targets."""
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(len(self.train) - length, (steps, batch, 1), generator=generator)
        return self.train[starts + torch.arange(length + 1)]

    def encode(self, text: str) -> Tensor:
        """The codes of a text's characters."""
        return torch.tensor([self.alphabet.index(character) for character in text])


def load_corpus() -> Corpus:
    """The standard library's modules in alphabetical order, split by file."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    texts = [file.read_bytes().decode("ascii", "replace").replace("\N{REPLACEMENT CHARACTER}", "?") for file in files]
    alphabet = "".join(sorted(set("".join(texts))))
    number = {character: i for i, character in enumerate(alphabet)}

    def encode(parts: list[str]) -> Tensor:
        return torch.tensor([number[character] for character in "".join(parts)])

    held_out = texts[::VALIDATION_EVERY]
    training_texts = [text for i, text in enumerate(texts) if i % VALIDATION_EVERY]
    return Corpus(alphabet, encode(training_texts), encode(held_out))


# ---- The model ------------------------------------------------------------------------------------------------------


class CharLM(nn.Module):
    """Embedding -> `recurrence` -> Linear; the recurrence takes (batch, time, width) and a state, as torch.nn.LSTM."""

    def __init__(self, recurrence: nn.Module, characters: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.recurrence = recurrence
        self.output = nn.Linear(width, characters)

    def forward(self, text: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        h, state = self.recurrence(self.embedding(text), state)
        return self.output(h), state


def bits_per_character(model: nn.Module, text: Tensor) -> Tensor:
    """Mean cross-entropy of the next character; text (batch, length + 1)."""
    logits, _ = model(text[:, :-1])
    return cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()) / math.log(2)


@torch.no_grad()
def validation_bits(model: nn.Module, text: Tensor, batch: int, length: int = 512) -> float:
    """Bits per character over the whole validation text, split into pieces of `length`."""
    stretches = text[: (len(text) - 1) // length * length + 1].unfold(0, length + 1, length)
    total = sum(float(bits_per_character(model, part)) * len(part) for part in torch.split(stretches, batch))
    return total / len(stretches)


@torch.no_grad()
def sample(model: nn.Module, corpus: Corpus, seed: int, count: int = 200, prompt: str = "\ndef ") -> str:
    """Sample text from the model, one character at a time, carrying the state."""
    generator = torch.Generator().manual_seed(seed)
    text, state = corpus.encode(prompt)[None], None
    written = prompt
    for _ in range(count):
        logits, state = model(text, state)
        text = torch.multinomial(logits[:, -1].softmax(-1), 1, generator=generator)
        written += corpus.alphabet[int(text)]
    return written.strip()


# ---- Training -------------------------------------------------------------------------------------------------------


@dataclass
class Training:
    """A model, its training batches (steps, batch, length + 1), and the measurements so far.

    The learning rate rises and falls over `schedule_steps`, all steps by default. With the same schedule, models that
    see the same batches have the same losses even if one of them stops earlier.
    """

    name: str
    model: nn.Module
    batches: Tensor
    rate: float = 5e-3
    schedule_steps: int | None = None
    loss_of: Callable[[Any, Tensor], Tensor] = bits_per_character
    losses: list[float] = field(default_factory=list)  # bits per character, one per step
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        steps = self.schedule_steps or len(self.batches)
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, self.rate, total_steps=steps, pct_start=0.1)

    def step(self) -> None:
        started = time.perf_counter()
        loss = self.loss_of(self.model, self.batches[len(self.losses)])
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.losses.append(loss.item())
        self.seconds.append(time.perf_counter() - started)

    def step_seconds(self) -> float:
        """The lower quartile, which is robust against other load on the machine."""
        return sorted(self.seconds)[len(self.seconds) // 4]

    def speed(self) -> float:
        """Characters per second."""
        return self.batches[0, :, 1:].numel() / self.step_seconds()

    def recent_loss(self) -> float:
        """The mean over the last tenth of the steps, as the loss of one batch is noisy."""
        return statistics.fmean(self.losses[-max(1, len(self.losses) // 10) :])


def take_turns(trainings: Sequence[Training], turns: int = 20) -> None:
    """Train all models in turns, a fraction of the steps at a time; each turn starts with another model."""
    with progress(sum(len(training.batches) for training in trainings), "steps") as bar:
        for turn in range(turns):
            for training in islice(cycle(trainings), turn, turn + len(trainings)):
                share = len(training.batches) * (turn + 1) // turns - len(training.losses)
                for _ in range(share):
                    training.step()
                    bar.update()
                if share:
                    bar.set_postfix_str(f"{training.name}: {training.losses[-1]:.2f} bits/character", refresh=False)


def largest_difference(one: Training, other: Training, steps: int | None = None) -> float:
    """Difference between the loss curves, over the steps that both have made or the first of them."""
    pairs = list(zip(one.losses, other.losses, strict=False))[:steps]
    return max(abs(a - b) for a, b in pairs)
