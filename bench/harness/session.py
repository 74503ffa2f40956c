"""The common part of all families except rnn: the command line, and a run that prints each row as it is measured."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from bench.harness import machine, peers, tables
from bench.harness.contest import Absent, Call, Entrant, Record
from bench.harness.timing import stir_torch_pool


@dataclass(frozen=True)
class Options:
    sections: tuple[str, ...]
    threads: tuple[int, ...] = (1, 2)
    peers: tuple[str, ...] = ()
    budget: float = 6.0
    compile: bool = True
    stir: bool = False
    quick: bool = False

    def stirring(self) -> Call | None:
        return stir_torch_pool() if self.stir else None

    def chosen(self, peers: Sequence[Entrant | Absent]) -> list[Entrant | Absent]:
        """The peers whose name contains one of the given words."""
        return [peer for peer in peers if not self.peers or any(word in peer.name for word in self.peers)]


def add_arguments(parser: argparse.ArgumentParser, sections: Sequence[str]) -> None:
    def names(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split(","))

    parser.add_argument("--quick", action="store_true", help="small sizes without torch.compile, in less than a minute")
    parser.add_argument("--threads", type=numbers, default=(1, 2), help="1,2")
    parser.add_argument("--sections", type=names, default=tuple(sections), help="of " + ",".join(sections))
    parser.add_argument("--peers", type=names, default=(), help="words: only peers whose name contains one of them")
    parser.add_argument("--budget", type=float, help="seconds per contest (long calls may exceed it)")
    parser.add_argument("--no-compile", action="store_true", help="leave out variants that use torch.compile")
    parser.add_argument("--stir", action="store_true", help="run a torch op before every call: its workers spin")


def read_options(family: str, arguments: argparse.Namespace, sections: Sequence[str]) -> Options:
    if not set(arguments.sections) <= set(sections):
        raise SystemExit(
            f"bench {family}: --sections must be of {', '.join(sections)}, got {', '.join(arguments.sections)}"
        )
    options = Options(
        arguments.sections,
        arguments.threads,
        arguments.peers,
        compile=not (arguments.no_compile or arguments.quick),
        stir=arguments.stir,
        quick=arguments.quick,
    )
    if arguments.quick:
        options = replace(options, budget=0.1)
    return options if arguments.budget is None else replace(options, budget=arguments.budget)


Section = Callable[[Options], Iterator[Record]]


def measure(
    family: str,
    options: Options,
    sections: Mapping[str, Section],
    headers: Mapping[str, str] = tables.HEADERS,
    rows: Mapping[str, Callable[[Record], str]] = tables.ROWS,
) -> Record:
    """Measure the chosen sections; return what bench/__main__.py writes to --out."""
    described = machine.describe()
    described["versions"].update(peers.versions())
    results: Record = {"family": family, "machine": described, "options": asdict(options)}
    print(tables.machine(results["machine"]))
    for name in options.sections:
        results[name] = []
        print(f"\n{headers[name]}")
        for record in sections[name](options):
            results[name].append(record)
            print(rows[name](record), flush=True)
    return results
