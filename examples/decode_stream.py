"""Stream a text through transformers models one character at a time, and measure time and memory per step.

Three models with random weights read the same characters, Python's standard library, and predict each next one with a
cache: a Llama, whose attention reads every earlier character; a Mamba; and the same Mamba after accelerate. The
state of a Mamba has a constant size, so a step takes the same time after any number of characters. Its predictions are
compared with those of one pass over the whole text.

    python examples/decode_stream.py            # half a minute on two cores; writes decode_stream.png next to this file
    python examples/decode_stream.py --help
"""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from _language_model import load_corpus
from _script import OTHERS, OURS, THEIRS, command_line, figure_option, option, progress, save
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fastiter.torch import accelerate

ATTENTION, BEFORE, AFTER = "Llama", "Mamba", "Mamba, accelerated"
COLORS = {ATTENTION: OTHERS, BEFORE: THEIRS, AFTER: OURS}
WINDOW = 100  # steps per plotted median


@dataclass(frozen=True)
class Options:
    characters: int = option(4000, "characters that each model reads", 300)
    width: int = option(256, "width of the models", 32)
    layers: int = option(2, "layers of the models")
    seed: int = option(0, "seed of the weights")
    figure: Path = figure_option(__file__)


def build(characters: int, width: int, layers: int, seed: int) -> dict[str, Any]:
    transformers.logging.set_verbosity_error()
    torch.manual_seed(seed)
    sizes = {"vocab_size": characters, "hidden_size": width, "num_hidden_layers": layers}
    mamba = transformers.MambaForCausalLM(transformers.MambaConfig(**sizes, eos_token_id=None, pad_token_id=0))
    attention = {"intermediate_size": 3 * width, "num_attention_heads": 4, "max_position_embeddings": 2**20}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **attention))
    models = {ATTENTION: llama, BEFORE: mamba, AFTER: accelerate(copy.deepcopy(mamba), verbose=True)}
    return {name: model.eval() for name, model in models.items()}


# ---- Reading --------------------------------------------------------------------------------------------------------


@dataclass
class Reader:
    """A model, its cache, and what it has predicted and measured so far."""

    model: Any
    cache: Any = None
    logits: list[Tensor] = field(default_factory=list)
    microseconds: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)

    def read(self, character: Tensor) -> None:
        """Read one more character (1, 1)."""
        started = time.perf_counter()
        output = self.model(character, cache=self.cache, use_cache=True)
        self.microseconds.append(1e6 * (time.perf_counter() - started))
        self.cache = output.cache
        self.logits.append(output.logits[0, -1])
        self.bytes.append(bytes_of(self.cache))

    def typical(self, which: slice) -> float:
        return statistics.median(self.microseconds[which])


def bytes_of(cache: Any) -> int:
    """Bytes of the tensors in a transformers cache."""
    tensors = []
    for layer in cache.layers:
        values = list(vars(layer).values())
        values += [tensor for value in values if isinstance(value, dict) for tensor in value.values()]
        tensors += [value for value in values if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@torch.no_grad()
def stream(models: dict[str, Any], text: Tensor) -> dict[str, Reader]:
    """Let all models read a text (1, T), taking turns after each character."""
    readers = {name: Reader(model) for name, model in models.items()}
    with progress(text.shape[1], "characters") as bar:
        for character in text.split(1, dim=1):
            for reader in readers.values():
                reader.read(character)
            bar.update()
    return readers


@torch.no_grad()
def largest_difference(reader: Reader, text: Tensor) -> float:
    """Compare the streamed predictions with those of one pass over the text, relative to the largest."""
    whole = reader.model(text, use_cache=False).logits[0]
    return float((torch.stack(reader.logits) - whole).abs().max() / whole.abs().max())


# ---- The results ----------------------------------------------------------------------------------------------------


def draw(axes: Axes, readers: dict[str, Reader], what: str, label: str) -> None:
    """Plot medians of the measurements over windows."""
    for name, reader in readers.items():
        values = getattr(reader, what)
        starts = range(0, len(values) - WINDOW + 1, WINDOW)
        medians = [statistics.median(values[start : start + WINDOW]) for start in starts]
        axes.plot(
            [start + WINDOW / 2 for start in starts],
            medians,
            color=COLORS[name],
            label=name,
            linewidth=4 if name == BEFORE else 1.5,
        )
    axes.set(xlabel="characters read", ylabel=label, xlim=(0, None), ylim=(0, None))
    axes.legend(frameon=False)


def report(readers: dict[str, Reader], text: Tensor) -> None:
    print(f"\n{'':20}{'us per step':>12}{'at the end':>12}{'cache, bytes':>14}{'at the end':>12}")
    for name, reader in readers.items():
        first, last = reader.typical(slice(10, 10 + WINDOW)), reader.typical(slice(-WINDOW, None))
        print(f"{name:20}{first:12,.0f}{last:12,.0f}{reader.bytes[0]:14,}{reader.bytes[-1]:12,}")
    for name in (BEFORE, AFTER):
        difference = largest_difference(readers[name], text)
        print(f"{name}: streamed and whole differ by at most {difference:.1e}")


def main() -> None:
    options = command_line(Options, __doc__)
    corpus = load_corpus()
    text = corpus.validation[None, : options.characters]
    readers = stream(build(len(corpus.alphabet), options.width, options.layers, options.seed), text)
    report(readers, text)

    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw(left, readers, "microseconds", "microseconds a step, median of 100")
    draw(right, readers, "bytes", "bytes of the cache")
    right.set(yscale="log", ylim=(1e3, None))
    print()
    save(figure, options.figure)


if __name__ == "__main__":
    main()
