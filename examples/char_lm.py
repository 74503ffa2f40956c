"""Train a character model as an LSTM, a GRU and a small Mamba, each before and after one call: accelerate(model).

The text is Python's own source code: the top-level modules of the standard library, about five megabytes. The
models are Embedding -> LSTM, GRU or Mamba -> Linear. The models from torch.nn and transformers (or plain torch, if
transformers is missing) are copied, `fastiter.torch.accelerate(copy)` replaces the code that computes the recurrence,
and both train on the same batches, in turns, so that the load of the machine affects both alike. The original Mamba
computes step by step in Python and is so slow that it makes only a few steps.

At first their losses agree to rounding; training amplifies rounding errors, so that after some hundred steps they agree
to a hundredth of a bit, as do two runs of torch.nn whose initial weights differ in the last bits.

    python examples/char_lm.py            # 20 seconds to 6 minutes; writes char_lm.png next to this file
    python examples/char_lm.py --help

:Starts from: a training run
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from _language_model import (
    CharLM,
    Corpus,
    Training,
    largest_difference,
    load_corpus,
    sample,
    take_turns,
    validation_bits,
)
from _mamba import mamba
from _script import OURS, THEIRS, command_line, figure_option, moving_mean, option, save
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

import fastiter
from fastiter.torch import accelerate

FIRST_STEPS = 10  # before rounding errors are amplified
VALIDATED = 128 * 512 + 1  # characters of the validation text


@dataclass(frozen=True)
class Options:
    steps: int = option(600, "optimizer steps of the LSTM and the GRU, before and after", 30)
    mamba_steps: int = option(300, "optimizer steps of the Mamba after accelerate", 30)
    loop_steps: int = option(20, "optimizer steps of the original Mamba", 10)
    width: int = option(64, "width of the layers", 16)
    batch: int = option(16, "sequences in a batch", 8)
    length: int = option(64, "characters in a sequence", 32)
    threads: int = option(1, "threads of torch and fastiter; the default layers are too small for more than one")
    seed: int = option(0, "seed of the weights, the batches and the sample")
    figure: Path = figure_option(__file__)


class Pair(NamedTuple):
    """The same model before and after accelerate."""

    name: str
    origin: str  # library of the original model
    before: Training
    after: Training

    def speed_up(self) -> float:
        return self.after.speed() / self.before.speed()

    def is_short(self) -> bool:
        """Whether the original model makes fewer steps."""
        return len(self.before.batches) < len(self.after.batches)


def make_pairs(options: Options, corpus: Corpus) -> list[Pair]:
    batches = corpus.batches(max(options.steps, options.mamba_steps), options.batch, options.length, options.seed)
    torch.manual_seed(options.seed)
    width, pairs = options.width, []
    origin, small_mamba = mamba(width)
    for name, recurrence, by, before_steps, after_steps in (
        ("LSTM", nn.LSTM(width, width, batch_first=True), "torch.nn", options.steps, options.steps),
        ("GRU", nn.GRU(width, width, batch_first=True), "torch.nn", options.steps, options.steps),
        ("Mamba", small_mamba, origin, min(options.loop_steps, options.mamba_steps), options.mamba_steps),
    ):
        before = CharLM(recurrence, len(corpus.alphabet), width)
        after = accelerate(copy.deepcopy(before), verbose=True)  # the one call
        slow = Training(f"{name}, {by}", before, batches[:before_steps], schedule_steps=after_steps)
        pairs.append(Pair(name, by, slow, Training(f"{name}, fastiter", after, batches[:after_steps])))
    return pairs


# ---- The results ----------------------------------------------------------------------------------------------------


def print_results(pairs: list[Pair], corpus: Corpus, batch: int) -> None:
    print(f"\n{'bits per character':26}{'train':>8}{'validation':>12}{'steps':>7}{'characters/s':>14}")
    for pair in pairs:
        for training in (pair.before, pair.after):
            is_short = training is pair.before and pair.is_short()
            bits = "" if is_short else f"{validation_bits(training.model, corpus.validation[:VALIDATED], batch):.3f}"
            row = f"{training.recent_loss():8.3f}{bits:>12}{len(training.losses):7}{training.speed():14,.0f}"
            print(f"{training.name:26}{row}")
    print(f"{'character frequencies only':26}{'':8}{corpus.order0_entropy():12.3f}")

    print(f"\n{'':8}{'times as fast':>14}{'largest difference between the losses':>40}")
    for pair in pairs:
        first, every = (largest_difference(pair.after, pair.before, steps) for steps in (FIRST_STEPS, None))
        differences = f"{first:.1e} in {FIRST_STEPS} steps, {every:.1e} in {len(pair.before.losses)}"
        print(f"{pair.name:8}{pair.speed_up():14.2f}{differences:>40}")


def draw_losses(axes: Axes, pair: Pair) -> None:
    """Plot the losses on top of each other, as moving means over the same number of steps."""
    width = max(1, len(pair.after.losses) // 50)
    axes.plot(*moving_mean(pair.after.losses, width), color=OURS, linewidth=5, alpha=0.55, label="after accelerate")
    steps = f", {len(pair.before.losses)} steps" if pair.is_short() else ""
    before = moving_mean(pair.before.losses, width)
    axes.plot(*before, color=THEIRS, linewidth=1.2, label=pair.origin + steps)
    axes.set(xlabel="step", xlim=(0, len(pair.after.losses)), title=pair.name)
    axes.legend(frameon=False)


def draw_speed_ups(axes: Axes, pairs: list[Pair]) -> None:
    """Plot speedups on a logarithmic axis that begins at 1, the original speed."""
    names = [f"{pair.name} of {pair.origin}" for pair in pairs]
    bars = axes.barh(names, [pair.speed_up() - 1 for pair in pairs], left=1, color=OURS, height=0.6)
    axes.bar_label(bars, [f"{pair.speed_up():.3g} times as fast" for pair in pairs], padding=4)
    limit = 3 * max(pair.speed_up() for pair in pairs)
    axes.set(xscale="log", xlim=(1, limit), title="Speed of a training step after accelerate, before = 1")
    axes.set_xticks([tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500) if tick < limit], minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.invert_yaxis()


def draw(pairs: list[Pair], path: Path) -> None:
    figure = Figure(figsize=(8.5, 6), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 2))[:, 0]
    panels = upper.subplots(1, len(pairs), sharey=True)
    for axes, pair in zip(panels, pairs, strict=True):
        draw_losses(axes, pair)
    panels[0].set_ylabel("training loss, bits per character")
    upper.suptitle("The same losses before and after accelerate(model)")
    draw_speed_ups(lower.subplots(), pairs)
    save(figure, path)


def main() -> None:
    options = command_line(Options, __doc__)
    torch.set_num_threads(options.threads)
    fastiter.set_num_threads(options.threads)
    corpus = load_corpus()
    print(f"{len(corpus.train):,} characters to train on, {len(corpus.validation):,} to validate on; ", end="")
    print(f"width {options.width}, batch {options.batch} x {options.length}, threads {options.threads}")
    pairs = make_pairs(options, corpus)
    take_turns([training for pair in pairs for training in (pair.before, pair.after)])
    print_results(pairs, corpus, batch=32)
    print(f"\nThe LSTM writes:\n{sample(pairs[0].after.model, corpus, options.seed)}\n")
    draw(pairs, options.figure)


if __name__ == "__main__":
    main()
