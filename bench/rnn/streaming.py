"""One time step at a time, B 1: StreamingRNN and step() against torch.nn's cells, and the time to read W and R."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import fastiter.torch.nn
from bench.harness import gate, limits
from bench.harness.contest import Call, Record
from bench.harness.tables import against, markdown_table
from bench.harness.timing import Competitor, fastest, interleave, load_average, use_threads
from bench.rnn.cases import CELLS, Case, bytes_of_r

STEPS = 16  # compared by the gate
GOALS = {("lstm", 256): 2.0}


@dataclass
class Streams:
    """The same layer three times: with internal state, with state passed in and out, and torch's cell."""

    stream: fastiter.torch.nn.StreamingRNN
    layer: torch.nn.Module
    cell: torch.nn.Module
    x: Tensor

    def stepwise(self) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of every step by each of the three."""
        ours, theirs, by_step = [], [], []
        state = of_layer = None
        self.stream.reset()
        for x in self.x:
            ours.append(self.stream(x))
            output, of_layer = self.layer.step(x, of_layer)
            by_step.append(output)
            state = self.cell(x, state)
            theirs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(ours), torch.stack(by_step), torch.stack(theirs)

    def check(self, case: Case) -> float:
        ours, by_step, theirs = self.stepwise()
        return gate.check(f"{case}, streaming", {"h": ours, "step": by_step}, {"h": theirs, "step": theirs}, STEPS)

    def calls(self) -> dict[str, Call]:
        x = self.x[0]
        _, state = self.layer.step(x)
        of_cell = self.cell(x)
        return {
            "stream": lambda: self.stream(x),
            "step": lambda: self.layer.step(x, state),
            "torch": lambda: self.cell(x, of_cell),
        }


def streams(case: Case) -> Streams:
    name = str(CELLS[case.cell].layer)
    cell = getattr(torch.nn, f"{name}Cell")(case.H, case.H)
    layer = getattr(fastiter.torch.nn, name)(case.H, case.H)
    layer.load_state_dict({f"{key}_l0": value for key, value in cell.state_dict().items()})
    return Streams(fastiter.torch.nn.StreamingRNN(layer, 1), layer, cell, torch.randn(STEPS, 1, case.H))


@torch.no_grad()
def measure(case: Case, threads: Sequence[int], budget: float, stir: Call | None) -> Iterator[Record]:
    torch.manual_seed(0)
    contest = streams(case)
    worst = contest.check(case)
    for count in threads:
        use_threads(count)
        calls, read = contest.calls(), limits.read_bandwidth(2 * bytes_of_r(case), count)
        ours = [Competitor(name, calls[name], count) for name in ("stream", "step")]
        theirs = [Competitor(f"torch@{n}", calls["torch"], n, variant_of="torch") for n in sorted({1, count})]
        timings = interleave([*ours, *theirs, Competitor(read.name, read.call, count)], budget, stir)
        peer = timings[fastest(timings, [competitor.name for competitor in theirs])]
        floor = 2 * bytes_of_r(case) / read.rate(timings[read.name])
        yield {
            "cell": case.cell,
            "H": case.H,
            "threads": count,
            "difference": worst,
            **{f"{name}_us": 1e6 * timings[name].minimum for name in ("stream", "step")},
            "stream_median_us": 1e6 * timings["stream"].median,
            "torch_us": 1e6 * peer.minimum,
            "ratio": peer.minimum / timings["stream"].minimum,
            "ratio_median": peer.median / timings["stream"].median,
            "floor_us": 1e6 * floor,
            "share": floor / timings["stream"].minimum,
            "load": load_average(),
        }


# ---- Text -----------------------------------------------------------------------------------------------------------

HEADER = (
    f"{'cell':6}{'H':>5}{'threads':>9}{'a step':>11}{'floor':>8}{'share':>7}{'step()':>9}{'torch.nn':>10}"
    f"{'ratio':>7}{'load':>6}"
)


def row(r: Record) -> str:
    return (
        f"{r['cell']:6}{r['H']:5}{r['threads']:9}{r['stream_us']:8.1f} us{r['floor_us']:8.1f}{r['share']:7.0%}"
        f"{r['step_us']:9.1f}{r['torch_us']:10.1f}{r['ratio']:7.2f}{r['load']:6.1f}"
    )


def ratio_entry(r: Record) -> str:
    goal, value = GOALS.get((r["cell"], r["H"])), f"{r['ratio']:.2f}"
    return value if goal is None else against(value, f"{goal:g}", r["ratio"] >= goal)


def markdown(records: Sequence[Record]) -> list[str]:
    rows = [
        [
            f"{r['cell']}, H {r['H']}, {r['threads']} thread{'s' * (r['threads'] > 1)}",
            f"{r['stream_us']:.1f}",
            f"{r['floor_us']:.1f}",
            f"{r['step_us']:.1f}",
            f"{r['torch_us']:.1f}",
            ratio_entry(r),
        ]
        for r in records
    ]
    header = ["", "StreamingRNN, µs", "W and R read, µs", "step(), µs", "torch.nn's cell, µs", "times as fast"]
    return ["### One time step at a time, B 1, no gradients", markdown_table(header, rows)]
