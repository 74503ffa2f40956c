"""Products of packed matrices larger than the caches with a few vectors, against reading as many bytes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from bench.harness import gate, limits, tables
from bench.harness.contest import Record
from bench.harness.session import Options
from bench.harness.timing import Competitor, interleave, load_average, use_threads
from fastiter.decode._pack import PackedMatrix, pack_rows

GOAL = 0.8  # share of the read bandwidth, one row
ROWS = (1, 4)
K, NBYTES = 4096, 192 << 20
QUICK_NBYTES = 1 << 20
_BLOCK = 256  # rows of random numbers; the matrix repeats them
_CHECKED = 600  # rows at each end that the gate looks at

HEADER = tables.header(
    "products", f"{'rows':>6}{'MB':>8}{'ms':>10}{'median':>9}{'CPU':>9}{'GB/s':>8}{'read':>8}{'share':>7}"
)


def matrix(fmt: str, nbytes: int) -> PackedMatrix:
    """Return a packed matrix of about this size."""
    block = np.random.default_rng(0).standard_normal((_BLOCK, K), np.float32)
    each = pack_rows(lambda first, last: block[first:last], _BLOCK, K, fmt).nbytes
    N = max(nbytes // each, 1) * _BLOCK

    def rows(first: int, last: int) -> np.ndarray:
        return block[np.arange(first, last) % _BLOCK]

    return pack_rows(rows, N, K, fmt)


def check(packed: PackedMatrix, x: np.ndarray) -> float:
    """Raise if the product is wrong in its first and last columns; else return the difference."""
    worst = 0.0
    for first in (0, max(packed.N - _CHECKED, 0)):
        last = min(first + _CHECKED, packed.N)
        expected = x.astype(np.float64) @ packed.unpack(first, last - first).T.astype(np.float64)
        mine, theirs = torch.from_numpy(packed.product(x)[:, first:last]), torch.from_numpy(expected)
        worst = max(worst, gate.check(packed.format, {"y": mine}, {"y": theirs.float()}, packed.K))
    return worst


def products(formats: tuple[str, ...], options: Options) -> Iterator[Record]:
    for fmt in formats:
        packed = matrix(fmt, QUICK_NBYTES if options.quick else NBYTES)
        for threads in options.threads:
            use_threads(threads)
            read = limits.read_bandwidth(packed.nbytes, threads)
            for rows in ROWS:
                yield {"work": fmt, "threads": threads, "rows": rows, **measured(packed, rows, threads, read, options)}


def measured(packed: PackedMatrix, rows: int, threads: int, read: limits.Limit, options: Options) -> Record:
    x = np.random.default_rng(1).standard_normal((rows, packed.K), np.float32)
    worst = check(packed, x)
    competitors = [
        Competitor("product", lambda: packed.product(x), threads),
        Competitor(read.name, read.call, threads),
    ]
    timings = interleave(competitors, options.budget, options.stirring())
    timing, bandwidth = timings["product"], read.rate(timings[read.name])
    return {
        "difference": worst,
        "nbytes": packed.nbytes,
        "ms": 1e3 * timing.minimum,
        "median_ms": 1e3 * timing.median,
        "cpu_ms": 1e3 * min(timing.cpu),
        "gbs": 1e-9 * packed.nbytes / timing.minimum,
        "read_gbs": 1e-9 * bandwidth,
        "share": packed.nbytes / timing.minimum / bandwidth,
        "load": load_average(),
    }


def row(r: Record) -> str:
    return (
        f"{r['work']:34}{r['threads']:8}{r['rows']:6}{1e-6 * r['nbytes']:8.0f}{r['ms']:10.3f}{r['median_ms']:9.3f}"
        f"{r['cpu_ms']:9.3f}{r['gbs']:8.1f}{r['read_gbs']:8.1f}{r['share']:7.0%}{r['load']:6.1f}"
    )


def markdown(records: list[Record]) -> list[str]:
    def share(r: Record) -> str:
        value = f"{r['share']:.0%}"
        return tables.against(value, f"{GOAL:.0%}", r["share"] >= GOAL) if r["rows"] == 1 else value

    columns: dict[str, tables.Entry] = {
        "share of the read bandwidth": share,
        "GB/s of": lambda r: f"{r['gbs']:.1f} of {r['read_gbs']:.1f}",
        "ms": lambda r: f"{r['ms']:.2f}",
    }
    named = [{**r, "work": f"{r['work']}, {r['rows']} row{'s' * (r['rows'] > 1)}"} for r in records]
    note = "Each packed number is counted once. The bandwidth is that of a loop that reads as many bytes."
    return ["### Products larger than the caches", note, tables.pivot(named, columns)]
