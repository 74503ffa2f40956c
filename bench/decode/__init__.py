"""Decoder: one token of whole models as one call, and the products with packed weights that it consists of.

products      a matrix larger than the caches, in each format, with 1 and 4 vectors: share of the read bandwidth
models        one token of models of real sizes with random weights: the decoder in each format, transformers,
              accelerate, torchao's 4 bits without torch.compile, and llama.cpp with the same weights
never-slower  one token of tiny models of each architecture, against transformers and accelerate

OpenVINO is not among them: its exporter, optimum-intel 2.2, needs transformers before 5.6, and decoders need 5.24.
Logits are compared first: with those of transformers in float32 on the numbers that the packed weights stand for.
"""

from __future__ import annotations

import argparse
from functools import partial

from bench.decode import cases, models, never_slower, products
from bench.harness import session
from bench.harness.contest import Record
from bench.harness.peers import load

SECTIONS = ("products", "models", "never-slower")
HEADERS = dict(zip(SECTIONS, (products.HEADER, models.HEADER, never_slower.HEADER), strict=True))
ROWS = dict(zip(SECTIONS, (products.row, models.row, never_slower.row), strict=True))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)
    models.add_arguments(parser)


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    if load("transformers") is None:
        raise SystemExit("bench decode: needs transformers")
    if not set(arguments.formats) <= set(cases.FORMATS):
        raise SystemExit(f"bench decode: --formats must be of {', '.join(cases.FORMATS)}")
    options = session.read_options("decode", arguments, SECTIONS)
    sections = {
        "products": partial(products.products, arguments.formats),
        "models": partial(models.models, arguments),
        "never-slower": partial(never_slower.never_slower, arguments),
    }
    return session.measure("decode", options, sections, HEADERS, ROWS)
