"""Train a Mamba of transformers on the CPU and let it write, before and after accelerate(model).

A character-level language model on the text of char_lm.py, Python's standard library. Two models of transformers'
MambaForCausalLM start from the same weights and see the same batches; one of them is accelerated. They take turns for a
few steps, and their losses agree to rounding. Then the accelerated one goes on alone, because the other one would take
long: transformers computes the recurrence step by step, and its gradient in a time that is quadratic in the length.

    python examples/mamba_cpu.py            # a minute on two cores; writes mamba_cpu.png beside this file
    python examples/mamba_cpu.py --help
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from char_lm import Corpus, load_corpus
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy

from fastiter.torch import accelerate, restore

LEARNING_RATE = 3e-3
PROMPT = "\ndef "
BEFORE, AFTER = "transformers", "accelerated"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A Mamba of transformers on the CPU, before and after accelerate.")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of the accelerated model (%(default)s)")
    parser.add_argument("--both", type=int, default=8, help="steps that both models make, in turns (%(default)s)")
    parser.add_argument("--width", type=int, default=128, help="width of the model (%(default)s)")
    parser.add_argument("--layers", type=int, default=2, help="its layers (%(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="sequences in a batch (%(default)s)")
    parser.add_argument("--length", type=int, default=128, help="characters in a sequence (%(default)s)")
    parser.add_argument("--characters", type=int, default=200, help="characters that each model writes (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the batches and the sample (%(default)s)")
    parser.add_argument("--figure", type=Path, default=Path(__file__).with_suffix(".png"), help="where to draw it")
    parser.add_argument("--quick", action="store_true", help="a small model and few steps, to see that it runs")
    if parser.parse_args().quick:
        parser.set_defaults(steps=30, both=6, width=32, batch=4, length=48, characters=20)
    return parser.parse_args()


def build(characters: int, width: int, layers: int, seed: int) -> Any:
    transformers.logging.set_verbosity_error()
    torch.manual_seed(seed)
    config = transformers.MambaConfig(
        vocab_size=characters, hidden_size=width, num_hidden_layers=layers, eos_token_id=None, pad_token_id=0
    )
    return transformers.MambaForCausalLM(config)


# ---- Training, and writing ------------------------------------------------------------------------------------------


@dataclass
class Training:
    """A model, its optimizer, and the measurements so far."""

    name: str
    model: Any
    optimizer: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)  # bits per character
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, name: str, model: Any) -> Training:
        return cls(name, model.train(), torch.optim.AdamW(model.parameters(), LEARNING_RATE))

    def step(self, text: Tensor) -> None:
        started = time.perf_counter()
        logits = self.model(text[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - started)
        self.losses.append(loss.item() / math.log(2))


@torch.no_grad()
def least_seconds_to_read(models: list[Any], text: Tensor, rounds: int = 5) -> list[float]:
    """The least seconds in which each model predicts all characters of a text, in turns."""
    least = [math.inf] * len(models)
    for _ in range(rounds):
        for i, model in enumerate(models):
            started = time.perf_counter()
            model(text, use_cache=False)
            least[i] = min(least[i], time.perf_counter() - started)
    return least


def write(model: Any, alphabet: str, count: int, seed: int) -> tuple[str, float]:
    """Let a model write with its cache, one character at a time; return the text and the seconds."""
    prompt = torch.tensor([[alphabet.index(character) for character in PROMPT]])
    torch.manual_seed(seed)
    started = time.perf_counter()
    how = {"do_sample": True, "top_k": 0, "max_new_tokens": count, "min_new_tokens": count}
    written = model.generate(prompt, attention_mask=torch.ones_like(prompt), **how)
    return "".join(alphabet[i] for i in written[0].tolist()), time.perf_counter() - started


# ---- The results ----------------------------------------------------------------------------------------------------


def draw_time(axes: Axes, before: Training, after: Training) -> None:
    """Losses against the time that each model has spent."""
    for training, color in ((after, "tab:orange"), (before, "black")):
        passed = [sum(training.seconds[: i + 1]) for i in range(len(training.seconds))]
        axes.plot(passed, training.losses, color=color, linewidth=1.2, label=training.name)
    axes.set(xlabel="seconds", ylabel="training loss, bits per character", ylim=(0, None), xlim=(0, None))
    axes.legend(frameon=False)


def draw_rates(axes: Axes, rates: dict[str, tuple[float, float]]) -> None:
    """Characters a second before and after, on a logarithmic scale."""
    for i, (color, name) in enumerate((("black", BEFORE), ("tab:orange", AFTER))):
        positions = [task + 0.4 * i for task in range(len(rates))]
        bars = axes.bar(positions, [pair[i] for pair in rates.values()], width=0.38, color=color, label=name)
        axes.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=8)
    axes.set(yscale="log", ylabel="characters a second")
    axes.set_xticks([task + 0.2 for task in range(len(rates))], list(rates))
    axes.margins(y=0.15)
    axes.legend(frameon=False)


def draw(before: Training, after: Training, rates: dict[str, tuple[float, float]], path: Path) -> None:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_time(left, before, after)
    draw_rates(right, rates)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def print_rates(rates: dict[str, tuple[float, float]]) -> None:
    print(f"\n{'characters a second':22}{BEFORE:>14}{AFTER:>14}{'ratio':>8}")
    for task, (slow, fast) in rates.items():
        print(f"{task:22}{slow:14,.0f}{fast:14,.0f}{fast / slow:8.1f}")


def train(options: argparse.Namespace, corpus: Corpus) -> tuple[Training, Training]:
    """Train both models in turns, then the accelerated one alone."""
    model = build(len(corpus.alphabet), options.width, options.layers, options.seed)
    before = Training.start(BEFORE, copy.deepcopy(model))
    after = Training.start(AFTER, accelerate(model, verbose=True))
    batches = corpus.batches(options.steps, options.batch, options.length, options.seed)
    for step, text in enumerate(batches):
        for training in (after, before) if step < options.both else (after,):
            training.step(text)
        if step % 50 == 49:
            print(f"step {step + 1}: {after.losses[-1]:.2f} bits per character", flush=True)
    return before, after


def main() -> None:
    options = parse_arguments()
    corpus = load_corpus()
    before, after = train(options, corpus)
    apart = max(abs(a - b) for a, b in zip(before.losses, after.losses, strict=False))
    print(f"\nlargest difference of the first {options.both} losses: {apart:.1e} bits")

    slow = copy.deepcopy(after.model)  # the same weights
    restore(slow)
    text, count = corpus.validation[: options.length][None], options.characters
    models = [slow.eval(), after.model.eval()]
    reading = least_seconds_to_read(models, text)
    write(slow, corpus.alphabet, 2, options.seed)  # the first call imports
    (other, slow_writing), (written, writing) = (write(m, corpus.alphabet, count, options.seed) for m in models)
    characters = options.batch * options.length
    rates = {
        "training": (characters / min(before.seconds), characters / min(after.seconds)),
        "reading": (text.numel() / reading[0], text.numel() / reading[1]),
        "writing": (count / slow_writing, count / writing),
    }
    print_rates(rates)
    same = "the same" if written == other else "another text"
    print(f"\nThe accelerated model writes (and as transformers' own, {same}):\n{written.strip()}\n")
    draw(before, after, rates, options.figure)
    print(f"figure: {options.figure}")


if __name__ == "__main__":
    main()
