"""Train a character-level language model with weights, activations and gradients in formats coarser than float32.

The text and the model are those of char_lm.py: Embedding -> LSTM -> Linear. The weights of the LSTM and the last layer,
what goes into them, the LSTM's h at each step, and the gradients that their products take on the way back are rounded;
sums, logits and the optimizer stay in float32. All models start from the same weights and see the same batches.

- bf16; FP8, E4M3 forward and E5M2 backward; the same with a scale for each block of 32 (MXFP8);
- MXFP4, 4 bits and a scale for each block, with gradients rounded at random in proportion (stochastic), and to nearest;
- int8 with a scale for each tensor, gradients stochastic;
- fixed point of 8 bits forward and 16 backward, gradients stochastic.

    python examples/low_precision_training.py            # a minute and a half on two cores; draws a figure beside this
    python examples/low_precision_training.py --help

The measured quantity is the loss, not the speed: rounding is emulated in float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from char_lm import CharLM, Corpus, Training, load_corpus, take_turns, validation_bits
from matplotlib.figure import Figure

from fastiter.quant import MX
from fastiter.torch.nn import LSTM, FormatQuantizer, GradientQuantizer, QuantPlan, quantize_model

Choice = str | FormatQuantizer | GradientQuantizer
Plans = dict[str, QuantPlan]


def plans(weight: Choice, x: Choice, h: Choice, gradient: Choice) -> Plans:
    """A plan for each layer; the logits stay unrounded, as they go into a sum of exponentials."""
    return {
        "lstm": QuantPlan(weight=weight, input=x, output=h, gradient=gradient),
        "output": QuantPlan(weight=weight, input=h, gradient=gradient),
    }


def formats() -> dict[str, Plans | None]:
    """Plans by the names of formats; a scale computed from the largest number is one per tensor."""
    int8 = FormatQuantizer("int8", "amax")
    int8_gradient = GradientQuantizer("int8<STOCHASTIC>", "amax")
    mxfp4_gradient = GradientQuantizer(MX("e2m1<STOCHASTIC>"))
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


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Character-level language model in formats coarser than float32.")
    parser.add_argument("--steps", type=int, default=250, help="optimizer steps of each model (%(default)s)")
    parser.add_argument("--hidden", type=int, default=64, help="width of the LSTM (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="sequences in a batch (%(default)s)")
    parser.add_argument("--length", type=int, default=32, help="characters in a sequence (%(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the weights, the batches and the roundings (%(default)s)"
    )
    parser.add_argument("--figure", type=Path, default=Path(__file__).with_suffix(".png"), help="where to draw it")
    parser.add_argument("--quick", action="store_true", help="a few steps of small models, to see that it runs")
    if parser.parse_args().quick:
        parser.set_defaults(steps=30, hidden=32, batch=8, length=16)
    return parser.parse_args()


def trainings_of(options: argparse.Namespace, corpus: Corpus) -> list[Training]:
    trainings = []
    for position, (name, of) in enumerate(formats().items()):
        torch.manual_seed(options.seed)
        model = CharLM(LSTM, len(corpus.alphabet), options.hidden, 1)
        if of is not None:
            model = quantize_model(model, of)
        trainings.append(Training.start(f"{name:20}", model, options.steps, position))
    return trainings


def smoothed(losses: list[float], share: float = 0.05) -> list[float]:
    """A moving mean, over the same share of the steps everywhere."""
    width = max(1, round(share * len(losses)))
    sums = torch.tensor([0.0, *losses], dtype=torch.float64).cumsum(0)
    return ((sums[width:] - sums[:-width]) / width).tolist()


def draw(trainings: list[Training], entropy: float, path: Path) -> None:
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    reference = smoothed(trainings[0].losses)
    for i, training in enumerate(trainings):
        losses = smoothed(training.losses)
        steps = range(len(training.losses) - len(losses), len(training.losses))
        style = {"color": "black", "linewidth": 2} if i == 0 else {"linewidth": 1.2}
        left.plot(steps, losses, label=training.name.strip(), **style)
        right.plot(steps, [a - b for a, b in zip(losses, reference, strict=True)], **style)
    left.axhline(entropy, color="grey", linestyle="--", label="character frequencies only")
    left.set(xlabel="step", ylabel="training loss, bits per character (moving mean)")
    left.set_title("Weights, activations and gradients in coarse formats")
    left.legend(frameon=False)
    right.set(xlabel="step", ylabel="loss above float32's, bits per character", ylim=(-0.03, 0.2))
    right.set_title("The same, as the difference from float32")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(1)  # a step of h is small: a second thread would only wait for the first
    corpus = load_corpus()
    print(f"LSTM of {options.hidden}, batch {options.batch} x {options.length}, {options.steps} steps")
    trainings = trainings_of(options, corpus)
    take_turns(trainings, corpus.batches(options.steps, options.batch, options.length, options.seed))

    reference, *_ = trainings
    part = corpus.validation[: 64 * 512 + 1]
    print(f"\n{'bits per character':26}{'train':>10}{'validation':>12}{'train, above float32':>24}")
    for training in trainings:
        bits = validation_bits(training.model.eval(), part, 128, length=64)
        above = training.recent_loss() - reference.recent_loss()
        print(f"{training.name.strip():26}{training.recent_loss():10.3f}{bits:12.3f}{above:24.3f}")
    entropy = corpus.order0_entropy()
    print(f"{'character frequencies only':26}{'':10}{entropy:12.3f}")
    draw(trainings, entropy, options.figure)
    print(f"figure: {options.figure}")


if __name__ == "__main__":
    main()
