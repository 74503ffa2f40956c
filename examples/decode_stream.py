"""Let a Mamba of 130 million weights write tokens: transformers, accelerate, and Decoder with 32, 8 and 4 bits.

The weights are random, in the shape of mamba-130m. All continue the same prompt with the most probable tokens, taking
turns: `model.generate` of transformers, the same after accelerate, and `Decoder.generate`, whose steps are one compiled
call and read weights of 32, 8 or 4 bits. Each text is then checked by transformers in one pass over it, with the
numbers that the packed weights stand for: at every place, the token must have the largest logit, up to rounding. The
last column of the output has the largest difference from it, relative to it. The program takes 6 GB of memory.

    python examples/decode_stream.py            # 20 seconds to 6 minutes; writes decode_stream.png next to this file
    python examples/decode_stream.py --help

:Starts from: a model
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from _script import OTHERS, OURS, THEIRS, command_line, figure_option, option, progress, save
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fastiter.torch import Decoder, accelerate

BEFORE, AFTER = "transformers", "accelerated"
FORMATS = {"Decoder, 32 bits": "f32", "Decoder, 8 bits": "int8", "Decoder, 4 bits": "int4"}
ROUNDING = 1e-4  # a logit's, relative to the largest: float32 sums in two orders, through all layers


@dataclass(frozen=True)
class Options:
    tokens: int = option(24, "tokens that each writes in a round", 6)
    rounds: int = option(3, "rounds, of which the fastest counts", 2)
    prompt: int = option(8, "tokens of the prompt")
    width: int = option(768, "width of the model", 32)
    layers: int = option(24, "layers of the model", 2)
    vocabulary: int = option(50280, "tokens that the model knows", 200)
    seed: int = option(0, "seed of the weights and the prompt")
    figure: Path = figure_option(__file__)


@dataclass
class Writer:
    """A way to continue a prompt, the weights that it reads, and its texts and times so far."""

    write: Callable[[Tensor, int], Tensor]
    weights: dict[str, Tensor]
    bytes: int
    seconds: float = float("inf")
    text: Tensor = field(default_factory=lambda: torch.empty(0))


def build(options: Options) -> Any:
    transformers.logging.set_verbosity_error()
    torch.manual_seed(options.seed)
    sizes = {"hidden_size": options.width, "num_hidden_layers": options.layers, "vocab_size": options.vocabulary}
    config = transformers.MambaConfig(**sizes, eos_token_id=None, pad_token_id=0)
    return transformers.MambaForCausalLM(config).eval()


def writer_of_model(model: Any) -> Writer:
    def write(prompt: Tensor, count: int) -> Tensor:
        mask = torch.ones_like(prompt)
        text: Tensor = model.generate(prompt, attention_mask=mask, max_new_tokens=count, do_sample=False)
        return text

    weights = model.state_dict()
    return Writer(write, weights, sum(x.numel() * x.element_size() for x in model.parameters()))


def writer_of_decoder(model: Any, fmt: str) -> Writer:
    """Pack the weights of a copy of a model, whose state_dict then has the numbers that they stand for."""
    packed = copy.deepcopy(model)
    decoder = Decoder(packed, weights=fmt)

    def write(prompt: Tensor, count: int) -> Tensor:
        decoder.reset()
        return decoder.generate(prompt, count)

    return Writer(write, packed.state_dict(), decoder.report.bytes)


# ---- Writing and checking -------------------------------------------------------------------------------------------


def take_turns(writers: dict[str, Writer], prompt: Tensor, count: int, rounds: int) -> None:
    """Measure the seconds in which each writes the same number of tokens, in the fastest of some rounds."""
    with progress((rounds + 1) * len(writers), "texts") as bar:
        for turn in range(rounds + 1):
            for writer in writers.values():
                started = time.perf_counter()
                writer.text = writer.write(prompt, count if turn else 2)  # the first calls prepare their kernels
                if turn:
                    writer.seconds = min(writer.seconds, time.perf_counter() - started)
                bar.update()


@torch.no_grad()
def largest_loss(model: Any, writer: Writer, prompt: Tensor) -> float:
    """By how much a token's logit is below the largest one at most, relative to it, in one pass of transformers."""
    model.load_state_dict(writer.weights)
    logits = model(writer.text[:, :-1], use_cache=False).logits[0, prompt.shape[1] - 1 :]
    chosen = logits.gather(1, writer.text[0, prompt.shape[1] :, None])[:, 0]
    return float((logits.amax(1) - chosen).max() / logits.abs().max())


# ---- The results ----------------------------------------------------------------------------------------------------


def draw(axes: Axes, values: dict[str, float], form: str, title: str) -> None:
    """Draw a horizontal bar for each writer, labelled with its number."""
    colors = {BEFORE: THEIRS, AFTER: OTHERS}
    bars = axes.barh(list(values), list(values.values()), color=[colors.get(name, OURS) for name in values])
    axes.bar_label(bars, fmt=form, padding=3)
    axes.margins(x=0.16)
    axes.set_title(title)


def main() -> None:
    options = command_line(Options, __doc__)
    plain = build(options)
    writers = {BEFORE: writer_of_model(plain), AFTER: writer_of_model(accelerate(copy.deepcopy(plain)))}
    writers |= {name: writer_of_decoder(plain, fmt) for name, fmt in FORMATS.items()}
    prompt = torch.randint(options.vocabulary, (1, options.prompt))
    take_turns(writers, prompt, options.tokens, options.rounds)

    speeds = {name: options.tokens / writer.seconds for name, writer in writers.items()}
    sizes = {name: writer.bytes / 1e6 for name, writer in writers.items()}
    print(f"\n{'':20}{'tokens/s':>10}{'ratio':>8}{'weights, MB':>13}{'off by at most':>16}")
    model = copy.deepcopy(plain)
    for name, writer in writers.items():
        loss = largest_loss(model, writer, prompt)
        print(f"{name:20}{speeds[name]:10.1f}{speeds[name] / speeds[BEFORE]:8.1f}{sizes[name]:13.2f}{loss:16.1e}")
        assert loss < ROUNDING, f"{name}: a token had a logit {loss} below the largest"

    figure = Figure(figsize=(8.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw(left, speeds, "{:,.1f}", "tokens a second")
    draw(right, sizes, "{:,.0f}", "MB of weights")
    left.invert_yaxis()
    print()
    save(figure, options.figure)


if __name__ == "__main__":
    main()
