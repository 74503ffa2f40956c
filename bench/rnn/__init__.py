"""The family rnn against its floor, against torch.nn, and against itself on small calls.

Sections, in float32, forward alone (no_grad) and forward + backward (gradients of inputs, weights and biases):
    grid    the recurrence alone against the machine's floor, and a layer against torch.nn's; short sequences in
            large batches, too
    heads   one recurrence of N heads against N separate torch.nn layers
    calls   the cost of one tiny call
    streaming   one time step per call, against torch.nn's cells (no_grad)
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import torch

from bench.harness import gate, limits, machine, tables
from bench.harness.contest import BOTH, MODES, Call, Record
from bench.harness.timing import (
    Competitor,
    Timing,
    collect_garbage,
    fastest,
    interleave,
    load_average,
    stir_torch_pool,
    use_threads,
)
from bench.rnn import streaming as rnn_streaming
from bench.rnn import table
from bench.rnn.cases import (
    CELLS,
    BlockDiagonal,
    Case,
    Recurrence,
    Rivals,
    SeparateLayers,
    bytes_of_r,
    check,
    floor_seconds,
    recurrent_flops,
    rivals,
)

# ---- Options --------------------------------------------------------------------------------------------------------

SECTIONS = ("grid", "heads", "calls", "streaming")
#: (B, T, H) of sequences of a few steps in large batches, as pointer networks on small sets have them
SHORT = ((128, 5, 64), (128, 10, 64))


@dataclass(frozen=True)
class Options:
    cells: tuple[str, ...] = tuple(CELLS)
    threads: tuple[int, ...] = (1, 2)
    sections: tuple[str, ...] = SECTIONS
    batches: tuple[int, ...] = (1, 16, 64)
    lengths: tuple[int, ...] = (128, 1024)
    widths: tuple[int, ...] = (64, 256, 512, 768)
    short: tuple[tuple[int, int, int], ...] = SHORT
    heads_length: int = 256
    streaming_widths: tuple[int, ...] = (16, 64, 256, 512)
    budget: float = 1.0
    stir: bool = False

    def cases(self) -> list[Case]:
        sizes = [*product(self.batches, self.lengths, self.widths), *self.short]
        return [Case(cell, *size) for cell in self.cells for size in sizes]

    def stirring(self) -> Call | None:
        return stir_torch_pool() if self.stir else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    def names(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split(","))

    full = Options()
    parser.add_argument("--quick", action="store_true", help="a corner of the grid, in less than a minute")
    parser.add_argument("--cells", type=names, default=full.cells, help="of " + ",".join(CELLS))
    parser.add_argument("--threads", type=numbers, default=full.threads, help="1,2")
    parser.add_argument("--sections", type=names, default=full.sections, help="of " + ",".join(SECTIONS))
    parser.add_argument("--batches", type=numbers, help="B of the grid")
    parser.add_argument("--lengths", type=numbers, help="T of the grid")
    parser.add_argument("--widths", type=numbers, help="H of the grid")
    parser.add_argument("--budget", type=float, help="seconds per cell of the table (long calls may exceed it)")
    parser.add_argument("--stir", action="store_true", help="run a torch op before every call: its workers spin")


def read_options(arguments: argparse.Namespace) -> Options:
    options = Options(arguments.cells, arguments.threads, arguments.sections, stir=arguments.stir)
    if arguments.quick:
        corner: dict[str, Any] = {
            "batches": (1, 16),
            "lengths": (32,),
            "widths": (64,),
            "heads_length": 32,
            "streaming_widths": (64,),
        }
        corner["short"] = SHORT[1:]
        options = replace(options, **corner, budget=0.15)
    chosen = {name: getattr(arguments, name) for name in ("batches", "lengths", "widths", "budget")}
    if any(chosen[name] is not None for name in ("batches", "lengths", "widths")):
        options = replace(options, short=())
    options = replace(options, **{name: value for name, value in chosen.items() if value is not None})
    for name, known in (("cells", tuple(CELLS)), ("sections", SECTIONS)):
        if not set(getattr(options, name)) <= set(known):
            raise SystemExit(
                f"bench rnn: --{name} must be of {', '.join(known)}, got {', '.join(getattr(options, name))}"
            )
    return options


# ---- The grid -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """The limits that are timed alongside a case."""

    product: dict[int, limits.Limit]  # by number of threads
    read: dict[tuple[int, int], limits.Limit]  # by bytes of r and number of threads


def line_up(case: Case, contest: Rivals, mode: str, threads: int, beside: Sequence[limits.Limit]) -> list[Competitor]:
    competitors = [Competitor("recurrence", contest.recurrence.timed(mode), threads)]
    if contest.ours is not None and contest.peer is not None:
        competitors.append(Competitor("layer", contest.ours.timed(mode), threads))
        competitors += torch_at(contest.peer.timed(mode), thread_counts(threads, 2 * recurrent_flops(case, mode)))
    return [*competitors, *(Competitor(limit.name, limit.call, threads) for limit in beside)]


def thread_counts(threads: int, flops: float) -> list[int]:
    """The thread counts to try for torch: all threads, and also one for calls shorter than a tenth of a second."""
    return [threads] if threads == 1 or flops > 1e10 else [1, threads]


def torch_at(call: Call, counts: Sequence[int]) -> list[Competitor]:
    return [Competitor(f"torch@{count}", call, count, variant_of="torch") for count in counts]


def against_torch(timings: dict[str, Timing], name: str) -> Record:
    """Ours against torch at the faster of its thread counts."""
    peer = fastest(timings, [other for other in timings if other.startswith("torch@")])
    ours, theirs = timings[name], timings[peer]
    return {
        "ours_ms": 1e3 * ours.minimum,
        "ours_median_ms": 1e3 * ours.median,
        "torch_ms": 1e3 * theirs.minimum,
        "torch_median_ms": 1e3 * theirs.median,
        "torch_threads": int(peer.partition("@")[2]),
        "ratio": theirs.minimum / ours.minimum,
        "ratio_median": theirs.median / ours.median,
    }


def against_floor(case: Case, mode: str, timings: dict[str, Timing], beside: Sequence[limits.Limit]) -> Record:
    """The recurrence alone against the floor, at the rates measured alongside it."""
    flop_rate, read_rate = (limit.rate(timings[limit.name]) for limit in beside)
    floor, bound = floor_seconds(case, mode, flop_rate, read_rate)
    recurrence = timings["recurrence"]
    return {
        "recurrence_ms": 1e3 * recurrence.minimum,
        "recurrence_median_ms": 1e3 * recurrence.median,
        "floor_ms": 1e3 * floor,
        "bound": bound,
        "share": floor / recurrence.minimum,
        "sgemm_gflops": 1e-9 * flop_rate,
        "read_gbs": 1e-9 * read_rate,
        "samples": len(recurrence.seconds),
    }


def grid(options: Options, beside: Limits) -> Iterator[Record]:
    for case in options.cases():
        torch.manual_seed(0)
        use_threads(max(options.threads))
        contest = rivals(case)
        worst = check(case, contest)
        for mode, threads in product(MODES, options.threads):
            rates = beside.product[threads], beside.read[bytes_of_r(case), threads]
            with torch.set_grad_enabled(mode == BOTH):
                timings = interleave(line_up(case, contest, mode, threads, rates), options.budget, options.stirring())
            yield {
                **asdict(case),
                "mode": mode,
                "threads": threads,
                "difference": worst,
                **against_floor(case, mode, timings, rates),
                **(against_torch(timings, "layer") if "layer" in timings else {}),
                "load": load_average(),
            }
        collect_garbage()


def measure_limits(options: Options) -> tuple[Limits, Record]:
    """The limits, for the record; every case also measures its own alongside."""
    best, rates = {}, {}
    for threads in options.threads:
        best[threads], rates[threads] = limits.best_product(threads, 3 * options.budget)
    sizes = sorted({bytes_of_r(case) for case in options.cases()})
    read = {(size, threads): limits.read_bandwidth(size, threads) for size in sizes for threads in options.threads}
    copying = limits.copy_bandwidth()
    record: Record = {"sgemm_gflops": {}, "read_gbs": {}, "copy_gbs": {}}
    for threads in options.threads:
        reading = limits.measure([read[size, threads] for size in sizes], threads, options.budget)
        record["sgemm_gflops"][str(threads)] = {name: 1e-9 * rate for name, rate in rates[threads].items()}
        record["read_gbs"][str(threads)] = {name: 1e-9 * rate for name, rate in reading.items()}
        record["copy_gbs"][str(threads)] = 1e-9 * limits.measure([copying], threads, options.budget)[copying.name]
    return Limits(best, read), record


# ---- Heads and calls ------------------------------------------------------------------------------------------------


def heads(options: Options) -> Iterator[Record]:
    """B 16, N 4: the block-diagonal network, including W x on both sides, each side in its faster form."""
    for cell, D in product((cell for cell in options.cells if CELLS[cell].layer), (64, 128)):
        torch.manual_seed(0)
        use_threads(max(options.threads))
        case = Case(cell, 16, options.heads_length, D)
        peer = SeparateLayers(case, 4)
        ours = {f"{n} call{'s' * (n > 1)}": BlockDiagonal(case, peer, together=n == 1) for n in (1, 4)}
        expected = peer.results()
        worst = max(gate.check(f"{case}, {name}", form.results(), expected, case.T) for name, form in ours.items())
        for mode, threads in product(MODES, options.threads):
            competitors = [Competitor(name, form.timed(mode), threads) for name, form in ours.items()]
            competitors += torch_at(peer.timed(mode), thread_counts(threads, 0.0))
            with torch.set_grad_enabled(mode == BOTH):
                timings = interleave(competitors, options.budget, options.stirring())
            form = fastest(timings, list(ours))
            yield {
                **asdict(case),
                "N": len(peer.layers),
                "mode": mode,
                "threads": threads,
                "form": form,
                "difference": worst,
                **against_torch(timings, form),
                "one_call_ms": 1e3 * timings["1 call"].minimum,
                "load": load_average(),
            }


def calls(options: Options) -> Iterator[Record]:
    """One call on 64 elements, alone and after a torch op whose workers are still spinning."""
    for cell, threads, mode in product(options.cells, options.threads, MODES):
        torch.manual_seed(0)
        recurrence = Recurrence.random(Case(cell, 1, 4, 16))
        record: Record = {"cell": cell, "threads": threads, "mode": mode}
        for suffix, stir in (("", None), ("_after_torch", stir_torch_pool())):
            with torch.set_grad_enabled(mode == BOTH):
                timing = interleave([Competitor("call", recurrence.timed(mode), threads)], options.budget, stir)["call"]
            record[f"us{suffix}"], record[f"median_us{suffix}"] = 1e6 * timing.minimum, 1e6 * timing.median
        yield {**record, "load": load_average()}


def streaming(options: Options) -> Iterator[Record]:
    for cell, H in product((cell for cell in options.cells if CELLS[cell].layer), options.streaming_widths):
        yield from rnn_streaming.measure(Case(cell, 1, 1, H), options.threads, options.budget, options.stirring())


# ---- The run --------------------------------------------------------------------------------------------------------


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = read_options(arguments)
    results: Record = {"family": "rnn", "machine": machine.describe(), "options": asdict(options)}
    print(tables.machine(results["machine"]))
    beside, results["limits"] = measure_limits(options)
    print(table.limits(results["limits"]))
    sections = {
        "grid": lambda: grid(options, beside),
        "heads": lambda: heads(options),
        "calls": lambda: calls(options),
        "streaming": lambda: streaming(options),
    }
    for name in options.sections:
        results[name] = []
        print(f"\n{table.HEADERS[name]}")
        for record in sections[name]():
            results[name].append(record)
            print(table.ROWS[name](record), flush=True)
    return results
