"""accelerate(model): unchanged models of transformers against the same models accelerated, in float32.

forward    logits of a sequence, without gradients
training   logits of a sequence, and the gradients of all parameters
decode     one more token with a cache, without gradients
products   forward with accelerate(model, products=True)
episodes   LSTMs of sb3-contrib and torchrl on batches of episodes, with gradients: bench/accelerate/episodes.py
never-slower   every kind of model and layer, small, at many sizes, only on request: bench/accelerate/never_slower.py

Models have two layers (hybrid models have a third, an attention layer), 1000 tokens and random weights. Both sides have
the same weights; the gate compares logits and the gradient of the embedded sequence.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

from bench.accelerate import episodes, never_slower
from bench.accelerate.models import (
    FULL,
    MAMBAS,
    QUICK,
    TRAINED,
    WIDE,
    ModelWork,
    Size,
    decoding,
    peers_of,
    sequence,
    training,
)
from bench.harness import session, tables
from bench.harness.contest import Record, race
from bench.harness.peers import load
from bench.harness.session import Options

USUAL = ("forward", "training", "decode", "products", "episodes")
NEVER_SLOWER = "never-slower"
SECTIONS = (*USUAL, NEVER_SLOWER)
HEADERS = {name: tables.HEADERS["peers"].replace("forward+backward", f"{name:16}") for name in USUAL}
MODELS = (*TRAINED, "xLSTM")
WITH_PRODUCTS = ("Mamba", "Mamba2", "Qwen3Next", "xLSTM")
DECODED = ("Mamba", "Mamba2", "Qwen3Next", "KimiLinear")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)
    parser.add_argument("--batch", type=int, default=1, help="number of sequences in a model's input")
    never_slower.add_arguments(parser)
    parser.set_defaults(threads=(1,), sections=USUAL)


def sizes(batch: int, options: Options, more: tuple[Size, ...] = ()) -> list[Size]:
    return [size._replace(batch=batch) for size in (QUICK if options.quick else (*FULL, *more))]


def compared(work: ModelWork, options: Options) -> Iterator[Record]:
    for threads in options.threads:
        yield race(work, options.chosen(peers_of(work)), threads, options.budget, options.stirring())


def forward(batch: int, options: Options) -> Iterator[Record]:
    for name in MODELS:
        for size in sizes(batch, options, WIDE if name == "Mamba" else ()):
            yield from compared(sequence(name, size), options)


def products(batch: int, options: Options) -> Iterator[Record]:
    for name in WITH_PRODUCTS:
        for size in sizes(batch, options):
            yield from compared(sequence(name, size, products=True), options)


def with_gradients(batch: int, options: Options) -> Iterator[Record]:
    for name in TRAINED:
        for size in sizes(batch, options):
            if name in MAMBAS and size.time > 512:
                continue  # transformers' backward pass takes time quadratic in T, here minutes
            yield from compared(training(name, size), options)


def decode(batch: int, options: Options) -> Iterator[Record]:
    for name in DECODED:
        yield from compared(decoding(name, sizes(batch, options)[0]), options)


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    if load("transformers") is None:
        raise SystemExit("bench accelerate: needs transformers")
    options = session.read_options("accelerate", arguments, SECTIONS)
    sections = {"forward": forward, "training": with_gradients, "decode": decode, "products": products}
    chosen = {name: partial(section, arguments.batch) for name, section in sections.items()}
    chosen["episodes"] = episodes.batches
    chosen[NEVER_SLOWER] = partial(never_slower.never_slower, arguments)
    headers, rows = HEADERS | {NEVER_SLOWER: never_slower.HEADER}, dict.fromkeys(USUAL, tables.peers_row)
    return session.measure("accelerate", options, chosen, headers, rows | {NEVER_SLOWER: never_slower.row})
