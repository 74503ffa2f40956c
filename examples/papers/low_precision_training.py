"""Train a character-level language model with weights, activations and gradients in low-precision formats.

The text and the model are those of char_lm.py: Embedding -> LSTM -> Linear. The weights of the LSTM and the last layer,
their inputs, the LSTM's h at each step, and the gradients that enter their products in the backward pass are rounded;
sums, logits and the optimizer stay in float32. All models start from the same weights and see the same batches.

- bf16; FP8, E4M3 forward and E5M2 backward; the same with a scale per block of 32 (MXFP8);
- MXFP4, 4 bits and a scale per block, with gradients rounded stochastically, and to nearest;
- int8 with a scale per tensor, gradients stochastic;
- 8-bit fixed point forward and 16-bit backward, gradients stochastic.

    python examples/papers/low_precision_training.py  # 1 to 12 minutes
    python examples/papers/low_precision_training.py --help

The measured quantity is the loss, not the speed: rounding is emulated in float32.

:Paper: Low-Precision Training of Large Language Models: Methods, Challenges, and Opportunities (2025), arXiv
    2505.01043
:Shows: the losses of one model trained in eight formats of the survey's three groups
:Does not show: large models, and speed: rounding is emulated
:Starts from: a training run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _paper  # before _language_model, whose folder it adds to the path
import torch
from _language_model import CharLM, Corpus, Training, load_corpus, take_turns, validation_bits
from matplotlib.figure import Figure

from fastiter.torch.nn import LSTM, FormatQuantizer, GradientQuantizer, QuantPlan, quantize_model

Choice = str | FormatQuantizer | GradientQuantizer
Plans = dict[str, QuantPlan]


def plans(weight: Choice, x: Choice, h: Choice, gradient: Choice) -> Plans:
    """A plan for each layer; the logits are not rounded, as they enter a sum of exponentials."""
    return {
        "recurrence": QuantPlan(weight=weight, input=x, output=h, gradient=gradient),
        "output": QuantPlan(weight=weight, input=h, gradient=gradient),
    }


def formats() -> dict[str, Plans | None]:
    """Plans by the names of formats; a scale computed from the largest number is one per tensor."""
    int8 = FormatQuantizer("int8", "amax")
    int8_gradient = GradientQuantizer("int8<STOCHASTIC>", "amax")
    mxfp4_gradient = GradientQuantizer("mx<e2m1<STOCHASTIC>>")
    below_one, below_four = "fixed<8,1,RND_CONV,SAT>", "fixed<8,3,RND_CONV,SAT>"
    fixed_gradient = GradientQuantizer("fixed<16,-5,STOCHASTIC,SAT>")
    return {
        "float32": None,
        "bf16": plans("bf16", "bf16", "bf16", "bf16"),
        "FP8: E4M3, E5M2": plans("e4m3fn", "e4m3fn", "e4m3fn", GradientQuantizer("e5m2", "amax")),
        "MXFP8: E4M3, E5M2": plans("mxfp8_e4m3", "mxfp8_e4m3", "mxfp8_e4m3", "mxfp8_e5m2"),
        "MXFP4, stochastic": plans("mxfp4_e2m1", "mxfp4_e2m1", "mxfp4_e2m1", mxfp4_gradient),
        "MXFP4, nearest": plans("mxfp4_e2m1", "mxfp4_e2m1", "mxfp4_e2m1", "mxfp4_e2m1"),
        "int8": plans(int8, int8, int8, int8_gradient),
        "fixed point, 8 bits": plans(below_one, below_four, below_one, fixed_gradient),
    }


@dataclass(frozen=True)
class Options:
    steps: int = _paper.option(250, "optimizer steps of each model", 30)
    hidden: int = _paper.option(64, "width of the LSTM", 32)
    batch: int = _paper.option(32, "sequences in a batch", 8)
    length: int = _paper.option(32, "characters in a sequence", 16)
    seed: int = _paper.option(0, "seed of the weights, the batches and the roundings")
    figure: Path = _paper.figure_option(__file__)


def trainings_of(options: Options, corpus: Corpus) -> list[Training]:
    batches = corpus.batches(options.steps, options.batch, options.length, options.seed)
    trainings = []
    for name, of in formats().items():
        torch.manual_seed(options.seed)
        layer = LSTM(options.hidden, options.hidden, batch_first=True)
        model = CharLM(layer, len(corpus.alphabet), options.hidden)
        trainings.append(Training(name, model if of is None else quantize_model(model, of), batches))
    return trainings


def draw(trainings: list[Training], entropy: float, path: Path) -> None:
    figure = Figure(figsize=(8.5, 6.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    width = max(1, len(trainings[0].losses) // 20)
    steps, reference = _paper.moving_mean(trainings[0].losses, width)
    for i, training in enumerate(trainings):
        _, losses = _paper.moving_mean(training.losses, width)
        style: dict[str, Any] = {"color": "black", "linewidth": 2} if i == 0 else {"linewidth": 1.3}
        upper.plot(steps, losses, label=training.name, **style)
        lower.plot(steps, [a - b for a, b in zip(losses, reference, strict=True)], **style)
    upper.axhline(entropy, color=_paper.OTHERS, linestyle="--", label="character frequencies only")
    upper.set(ylabel="training loss,\nbits per character")
    upper.set_title("An LSTM with weights, activations and gradients in coarse formats (moving mean)")
    upper.legend(frameon=False, loc="upper right", ncols=2)
    lower.set(xlabel="step", ylabel="loss above float32's,\nbits per character", ylim=(-0.05, 0.2))
    _paper.save(figure, path)


def main() -> None:
    options = _paper.command_line(Options, __doc__)
    torch.set_num_threads(1)  # a step of h is too small for two threads
    corpus = load_corpus()
    print(f"LSTM of {options.hidden}, batch {options.batch} x {options.length}, {options.steps} steps")
    trainings = trainings_of(options, corpus)
    take_turns(trainings)

    reference, *_ = trainings
    part = corpus.validation[: 64 * 512 + 1]
    print(f"\n{'bits per character':26}{'train':>10}{'validation':>12}{'train, above float32':>24}")
    for training in trainings:
        bits = validation_bits(training.model.eval(), part, 128, length=64)
        above = training.recent_loss() - reference.recent_loss()
        print(f"{training.name:26}{training.recent_loss():10.3f}{bits:12.3f}{above:24.3f}")
    entropy = corpus.order0_entropy()
    print(f"{'character frequencies only':26}{'':10}{entropy:12.3f}")
    draw(trainings, entropy, options.figure)


if __name__ == "__main__":
    main()
