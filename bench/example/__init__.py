"""The family example: softsign against PyTorch's.

peers      softsign forward and backward
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch.nn.functional import softsign as softsign_of_torch

from bench.harness import session
from bench.harness.contest import Record, Work, leaves, race, torch_entrant
from bench.harness.session import Options
from fastiter.example._torch.functional import softsign

SECTIONS = ("peers",)
TORCH = "torch.nn.functional"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)


def against_peers(options: Options) -> Iterator[Record]:
    torch.manual_seed(0)
    size = 1000 if options.quick else 1000000
    work = Work(f"softsign {size}", softsign, softsign_of_torch, leaves(x=torch.randn(size)), torch.randn(size), 1)
    for threads in options.threads:
        entrants = options.chosen([torch_entrant(TORCH, softsign_of_torch, work)])
        yield race(work, entrants, threads, options.budget, options.stirring())


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row when it is known."""
    options = session.read_options("example", arguments, SECTIONS)
    return session.measure("example", options, {"peers": against_peers})
