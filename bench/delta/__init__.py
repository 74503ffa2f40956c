"""The family delta: the delta rule against PyTorch, chunked and step by step, and against itself, in float32.

peers      delta_scan forward and backward
backward   the gradients against the forward pass before them
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

import fastiter.torch
from bench.delta.peers import delta_chunks, delta_loop
from bench.harness import session
from bench.harness.contest import Entrant, Record, Work, backward_against_forward, leaves, race, torch_entrant
from bench.harness.peers import compile_once_for_all_threads
from bench.harness.session import Options

SECTIONS = ("peers", "backward")
Shape = tuple[int, int, int, int, int]
FULL: Shape = (2, 4, 1024, 64, 64)  # (B, N, T, K, V)
QUICK: Shape = (1, 2, 96, 16, 16)
CHUNKED, STEPS = "PyTorch, chunked", "PyTorch, step by step"
CHUNKS = (32, 64, 128)
COMPILED_CHUNK = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)


def delta_work(shape: Shape) -> Work:
    """Keys of length 1 and beta in [0, 2], as in models whose eigenvalues reach -1."""
    torch.manual_seed(0)
    B, N, T, K, V = shape
    return Work(
        f"delta_scan {shape}",
        lambda *inputs: fastiter.torch.delta_scan(*inputs)[0],
        lambda *inputs: delta_loop(*inputs)[0],
        leaves(
            q=K**-0.5 * torch.randn(B, T, N, K),
            k=normalize(torch.randn(B, T, N, K), dim=-1),
            v=torch.randn(B, T, N, V),
            beta=2 * torch.sigmoid(torch.randn(B, T, N)),
        ),
        torch.randn(B, T, N, V),
        T,
    )


def in_chunks(chunk: int, *inputs: Tensor) -> Tensor:
    o: Tensor = delta_chunks(*inputs, chunk=chunk)[0]
    return o


def entrants(work: Work, compiled: bool) -> list[Entrant]:
    result = [torch_entrant(CHUNKED, partial(in_chunks, chunk), work, f"chunks of {chunk}") for chunk in CHUNKS]
    if compiled:
        compile_once_for_all_threads()
        function = torch.compile(partial(in_chunks, COMPILED_CHUNK))
        result.append(torch_entrant(CHUNKED, function, work, f"chunks of {COMPILED_CHUNK}, compiled"))
    return [*result, torch_entrant(STEPS, work.loop, work)]


def delta(options: Options) -> Work:
    return delta_work(QUICK if options.quick else FULL)


def against_peers(options: Options) -> Iterator[Record]:
    work = delta(options)
    chosen = options.chosen(entrants(work, options.compile))
    for threads in options.threads:
        yield race(work, chosen, threads, options.budget, options.stirring())


def backward(options: Options) -> Iterator[Record]:
    work = delta(options)
    for threads in options.threads:
        yield backward_against_forward(work, threads, 0.3 * options.budget, options.stirring())


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("delta", arguments, SECTIONS)
    return session.measure("delta", options, {"peers": against_peers, "backward": backward})
