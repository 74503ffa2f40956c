"""Train a Mamba from transformers on the CPU and sample from it, before and after accelerate(model).

The model is a character-level language model on the text of char_lm.py, Python's standard library. Two instances of
transformers' MambaForCausalLM start from the same weights and see the same batches; one of them is accelerated. They
take turns, and their losses agree to rounding. The other one makes only a few steps, because it is slow: transformers
computes the recurrence step by step, and its gradient in a time that is quadratic in the length.

    python examples/mamba_cpu.py            # 20 seconds to 6 minutes; writes mamba_cpu.png next to this file
    python examples/mamba_cpu.py --help

:Starts from: a model
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from _language_model import Corpus, Training, largest_difference, load_corpus, take_turns
from _script import OURS, THEIRS, command_line, figure_option, option, pair_of_bars, save
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy

from fastiter.torch import accelerate, restore

PROMPT = "\ndef "
BEFORE, AFTER = "transformers", "accelerated"
Rates = dict[str, tuple[float, float]]  # characters per second, before and after


@dataclass(frozen=True)
class Options:
    steps: int = option(300, "optimizer steps of the accelerated model", 30)
    both: int = option(8, "optimizer steps of the original model", 6)
    width: int = option(128, "width of the model", 32)
    layers: int = option(2, "layers of the model")
    batch: int = option(8, "sequences in a batch", 4)
    length: int = option(128, "characters in a sequence", 48)
    characters: int = option(200, "characters that each model writes", 20)
    seed: int = option(0, "seed of the weights, the batches and the sample")
    figure: Path = figure_option(__file__)


def build(characters: int, width: int, layers: int, seed: int) -> Any:
    transformers.logging.set_verbosity_error()
    torch.manual_seed(seed)
    config = transformers.MambaConfig(
        vocab_size=characters, hidden_size=width, num_hidden_layers=layers, eos_token_id=None, pad_token_id=0
    )
    return transformers.MambaForCausalLM(config)


# ---- Training, and writing ------------------------------------------------------------------------------------------


def bits_per_character(model: Any, text: Tensor) -> Tensor:
    """Mean cross-entropy of the next character; text (batch, length + 1)."""
    logits = model(text[:, :-1], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()) / math.log(2)


def train(options: Options, corpus: Corpus) -> tuple[Training, Training]:
    """Train both models in turns, the original one for only a few steps."""
    model = build(len(corpus.alphabet), options.width, options.layers, options.seed)
    batches = corpus.batches(options.steps, options.batch, options.length, options.seed)
    settings: dict[str, Any] = {"schedule_steps": options.steps, "loss_of": bits_per_character}
    before = Training(BEFORE, copy.deepcopy(model), batches[: options.both], **settings)
    after = Training(AFTER, accelerate(model, verbose=True), batches, **settings)
    take_turns([after, before])
    return before, after


@torch.no_grad()
def least_seconds_to_read(models: list[Any], text: Tensor, rounds: int = 5) -> list[float]:
    """The minimum seconds in which each model predicts all characters of a text, in turns."""
    fastest = [math.inf] * len(models)
    for _ in range(rounds):
        for i, model in enumerate(models):
            started = time.perf_counter()
            model(text, use_cache=False)
            fastest[i] = min(fastest[i], time.perf_counter() - started)
    return fastest


def write(model: Any, corpus: Corpus, count: int, seed: int) -> tuple[str, float]:
    """Sample from a model with its cache, one character at a time; return the text and the seconds."""
    prompt = corpus.encode(PROMPT)[None]
    torch.manual_seed(seed)
    started = time.perf_counter()
    settings = {"do_sample": True, "top_k": 0, "max_new_tokens": count, "min_new_tokens": count}
    written = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    return "".join(corpus.alphabet[i] for i in written[0].tolist()), time.perf_counter() - started


def measure(before: Training, after: Training, options: Options, corpus: Corpus) -> tuple[Rates, str, bool]:
    """Return the rates, what the accelerated model writes, and whether transformers' own writes the same."""
    slow = copy.deepcopy(after.model)  # the same weights
    restore(slow)
    text, count = corpus.validation[: options.length][None], options.characters
    models = [slow.eval(), after.model.eval()]
    reading = least_seconds_to_read(models, text)
    write(slow, corpus, 2, options.seed)  # warm-up: the first call imports modules
    (other, slow_writing), (written, writing) = (write(m, corpus, count, options.seed) for m in models)
    rates = {
        "training": (before.speed(), after.speed()),
        "reading": (text.numel() / reading[0], text.numel() / reading[1]),
        "writing": (count / slow_writing, count / writing),
    }
    return rates, written, written == other


# ---- The results ----------------------------------------------------------------------------------------------------


def draw_losses(axes: Axes, before: Training, after: Training) -> None:
    """Plot losses against the time that each model has spent."""
    for training, color in ((after, OURS), (before, THEIRS)):
        passed = torch.tensor(training.seconds).cumsum(0)
        axes.plot(passed, training.losses, color=color, linewidth=1.2, label=training.name)
    axes.set(xlabel="seconds of training", ylabel="training loss, bits per character", xlim=(0, None))
    axes.set_title(f"{len(before.losses)} steps before, {len(after.losses)} after")
    axes.legend(frameon=False)


def draw(before: Training, after: Training, rates: Rates, path: Path) -> None:
    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_losses(left, before, after)
    slow, fast = zip(*rates.values(), strict=True)
    pair_of_bars(right, list(rates), slow, fast, "{:,.0f}")
    right.set(yscale="log", ylabel="characters a second", title="Speed before and after")
    right.margins(y=0.12)
    save(figure, path)


def print_rates(rates: Rates) -> None:
    print(f"\n{'characters/s':22}{BEFORE:>14}{AFTER:>14}{'ratio':>8}")
    for task, (slow, fast) in rates.items():
        print(f"{task:22}{slow:14,.0f}{fast:14,.0f}{fast / slow:8.1f}")


def main() -> None:
    options = command_line(Options, __doc__)
    corpus = load_corpus()
    before, after = train(options, corpus)
    apart = largest_difference(before, after)
    print(f"\nlargest difference of the first {options.both} losses: {apart:.1e} bits")
    rates, written, is_same = measure(before, after, options, corpus)
    print_rates(rates)
    same = "the same" if is_same else "another text"
    print(f"\nThe accelerated model writes (and as transformers' own, {same}):\n{written.strip()}\n")
    draw(before, after, rates, options.figure)


if __name__ == "__main__":
    main()
