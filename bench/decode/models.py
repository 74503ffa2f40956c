"""One token of whole models: the race, its rows and its tables.

Seconds are wall time: tokens per second from the median, bandwidth from the least. The CPU time is the least of a step,
of all threads; on one thread it is what remains comparable on a machine with other programs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from bench.decode import cases, peers
from bench.decode.cases import MODELS, OURS, PROMPT, Entrant
from bench.harness import gate, limits, tables
from bench.harness.contest import Record
from bench.harness.session import Options
from bench.harness.timing import Competitor, collect_garbage, interleave, load_average, use_threads

MAX_BATCH = 8
READ, QUICK_READ = 256 << 20, 4 << 20  # bytes whose reading gives the bandwidth
AGAINST = (cases.TRANSFORMERS, cases.ACCELERATE, peers.LLAMA)

#: By model and format of ours: times as fast as the peers in AGAINST, batch 1; those of the formats of 4 bits are equal
GOALS = {
    "mamba-130m": {"f32": (1.9, 1.4, 1.2), "bf16": (3.5, 2.0, 1.4), "int8": (7, 5, 2.1), "int4": (10, 7.5, 2.3)},
    "mamba2-130m": {"int8": (9, 5, 1.6), "int4": (13, 7, 1.8)},
    "Qwen3.5-0.8B": {"int8": (4.5, 4.4, 1.9), "int4": (8, 7.8, 2.1)},
    "Qwen3.5-4B, 8 of 32 layers": {"int4": (6, 6, 1.3)},
}
#: Formats without a peer of their own: that with as many bits
SAME_BITS = {"mxfp8": "int8", "nf4": "int4", "mxfp4": "int4", "nvfp4": "int4"}

HEADER = tables.header(
    "one token",
    f"  {'':24}{'tokens/s':>9}{'ms':>9}{'median':>9}{'CPU':>9}{'MB':>8}{'share':>7}",
    *(f"{name[:12]:>14}" for name in AGAINST),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    def names(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split(","))

    parser.add_argument("--models", type=names, default=(), help="words: only models whose name contains one of them")
    parser.add_argument("--formats", type=names, default=cases.FORMATS, help="of " + ",".join(cases.FORMATS))
    parser.add_argument("--batches", type=numbers, default=(1, 4), help=f"numbers of sequences, at most {MAX_BATCH}")


def models(arguments: argparse.Namespace, options: Options) -> Iterator[Record]:
    for name, shape in MODELS.items():
        if arguments.models and not any(word in name for word in arguments.models):
            continue
        model = cases.build(shape, options.quick)
        drawn = torch.Generator().manual_seed(0)
        tokens = torch.randint(1, model.config.vocab_size, (max(arguments.batches), PROMPT + 1), generator=drawn)
        entrants, out = field(model, tokens, arguments.formats, options)
        for batch in arguments.batches:
            steps = started(entrants, tokens[:batch], out)
            for threads in options.threads:
                facts = {"work": f"{name}, batch {batch}", "model": name, "batch": batch, "threads": threads}
                yield {**facts, **race(steps, tokens[:batch, -1], threads, options), "out": dict(out)}
        del model, entrants, steps
        collect_garbage()


def field(
    model: object, tokens: Tensor, formats: Sequence[str], options: Options
) -> tuple[list[Entrant], dict[str, str]]:
    """Return all entrants, and the reasons why others do not run."""
    with torch.no_grad():
        entrants = [entrant for fmt in formats for entrant in cases.by_decoder(model, tokens, fmt)]
        others = {cases.TRANSFORMERS: partial(cases.by_transformers, model, tokens)}
        others |= {f"{peers.TORCHAO} {fmt}": partial(peers.by_torchao, model, tokens, fmt) for fmt in formats}
        others |= {f"{peers.LLAMA} {fmt}": partial(peers.by_llama, model, tokens, fmt) for fmt in formats}
        out = {}
        for name, make in others.items():
            if options.peers and not any(word in name for word in options.peers):
                continue
            try:
                entrants += make()
            except Exception as error:  # failures of peers are reported
                out[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                print(f"not timed: {name}: {out[name]}", flush=True)
    return entrants, out


@torch.no_grad()
def started(entrants: Sequence[Entrant], tokens: Tensor, out: dict[str, str]) -> dict[Entrant, cases.Step]:
    """Return the next step of each entrant that computes the right logits; raise if ours does not."""
    use_threads(1)
    steps = {}
    for entrant in entrants:
        step = entrant.start(tokens[:, :-1])
        try:
            entrant.check(step(tokens[:, -1]))
        except gate.GateError as error:
            if entrant.name.startswith((OURS, cases.DECODE)):
                raise
            out[entrant.name] = str(error)
            print(f"not timed: {error}", flush=True)
        else:
            steps[entrant] = step
    return steps


@torch.no_grad()
def race(steps: dict[Entrant, cases.Step], tokens: Tensor, threads: int, options: Options) -> Record:
    use_threads(threads)
    read = limits.read_bandwidth(QUICK_READ if options.quick else READ, threads)
    competitors = [Competitor(each.name, partial(step, tokens), threads) for each, step in steps.items()]
    timings = interleave([*competitors, Competitor(read.name, read.call, threads)], options.budget, options.stirring())
    found = {
        each.name: {
            "ms": 1e3 * timings[each.name].minimum,
            "median_ms": 1e3 * timings[each.name].median,
            "cpu_ms": 1e3 * min(timings[each.name].cpu),
            "samples": len(timings[each.name].seconds),
            "nbytes": each.nbytes + len(tokens) * each.state_nbytes,
        }
        for each in steps
    }
    return {"entrants": found, "read_gbs": 1e-9 * read.rate(timings[read.name]), "load": load_average()}


# ---- Text -----------------------------------------------------------------------------------------------------------


def share(r: Record, name: str) -> float:
    """Return the share of the read bandwidth that a step reaches."""
    own = r["entrants"][name]
    return 1e-6 * own["nbytes"] / own["ms"] / float(r["read_gbs"])


def ratio(r: Record, name: str, peer: str, key: str = "median_ms") -> float | None:
    """Return how many times as fast as a peer an entrant is.

    The peer has its fastest format; llama.cpp the one of as many bits.
    """
    fmt = name.rpartition(" ")[2]
    if peer == peers.LLAMA:
        found = [f"{peer} {each}" for each in (fmt, SAME_BITS.get(fmt)) if f"{peer} {each}" in r["entrants"]][:1]
    else:
        found = [each for each in r["entrants"] if each.rpartition(" ")[0] == peer]
    times = [r["entrants"][each][key] for each in found]
    return min(times) / float(r["entrants"][name][key]) if times else None


def goal(r: Record, name: str, peer: str) -> float | None:
    fmt = name.rpartition(" ")[2]
    goals = GOALS.get(r["model"], {})
    found = goals.get(SAME_BITS.get(fmt, fmt)) if fmt != "mxfp8" and name.startswith(OURS) and r["batch"] == 1 else None
    return found[AGAINST.index(peer)] if found is not None else None


def row(r: Record) -> str:
    lines = []
    for name, own in r["entrants"].items():
        start = f"{r['work']:34}{r['threads']:8}  {name:24}{1e3 * r['batch'] / own['median_ms']:9.1f}"
        times = f"{own['ms']:9.2f}{own['median_ms']:9.2f}{own['cpu_ms']:9.2f}"
        lines.append(f"{start}{times}{1e-6 * own['nbytes']:8.1f}{share(r, name):7.0%}{_both(r, name)}{r['load']:6.1f}")
    return "\n".join(lines)


def _both(r: Record, name: str) -> str:
    """Return the ratios of wall and CPU time to each peer."""
    if not name.startswith(OURS):
        return ""
    pairs = [(ratio(r, name, peer), ratio(r, name, peer, "cpu_ms")) for peer in AGAINST]
    cells = ["-" if wall is None or cpu is None else f"{wall:.2f} /{cpu:5.2f}" for wall, cpu in pairs]
    return "".join(f"{cell:>14}" for cell in cells)


def markdown(records: list[Record]) -> list[str]:
    """Return a table for each model, batch and number of threads."""
    parts = []
    for r in records:
        header = ["", "tokens/s", "ms", "CPU, ms", "MB a step", "share of the read bandwidth"]
        header += [f"times as fast as {peer}" for peer in AGAINST]
        rows = [[name, *cells(r, name)] for name in r["entrants"]]
        note = f"Read bandwidth {r['read_gbs']:.1f} GB/s."
        refused = "; ".join(f"{name}: {reason}" for name, reason in r["out"].items())
        note += f" Not timed: {refused}." if refused else ""
        parts += [f"### {r['work']}, {tables.on_threads(r['threads'])}", note, tables.markdown_table(header, rows)]
    return parts


def cells(r: Record, name: str) -> list[str]:
    own = r["entrants"][name]
    found = [f"{1e3 * r['batch'] / own['median_ms']:.1f}", f"{own['median_ms']:.2f}", f"{own['cpu_ms']:.2f}"]
    found += [f"{1e-6 * own['nbytes']:.1f}", f"{share(r, name):.0%}"]
    for peer in AGAINST:
        value, wanted = ratio(r, name, peer) if name.startswith(OURS) else None, goal(r, name, peer)
        text = "-" if value is None else f"{value:.2f}"
        reached = wanted is None or value is None
        found.append(text if reached else tables.against(text, f"{wanted:g}", value >= wanted))
    return found
