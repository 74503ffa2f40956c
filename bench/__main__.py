"""python -m bench FAMILY [--quick] [--out FILE.json]  measure a family
                                                        (rnn, depth, flashrnn, scan, delta, ssm, conv, attention,
                                                         newton, quant, fixed, relax, mdp, fixedpoint, hopfield, bcd,
                                                         distributed, busy, accelerate, decode: python -m bench --help)
python -m bench --device cuda [--out FILE.json]         measure all of them on a card
python -m bench card [--part 1|2|3] [--dry-run]         test and measure everything on a card; failures are recorded
python -m bench report [FILE.json ...]                  Markdown tables, with the goals; all of bench/results if no file
                       --figure FILE.svg                or one figure of all of them
                       --page FILE.md                   or the short table of one in the family's page
                       --site FOLDER                    or the tables of the site: a summary, and a file per family
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.harness import figure, gate, machine, site

HERE = Path(__file__).parent


def families() -> dict[str, str]:
    """Return the module of each family by the name of its command.

    A folder with a ``table.py`` is a family; a ``<topic>_table.py`` in it marks another family, ``<topic>.py``.
    """
    folders = {path.parent.name: f"bench.{path.parent.name}" for path in HERE.glob("*/table.py")}
    topics = {path.stem.removesuffix("_table"): path.parent.name for path in HERE.glob("*/*_table.py")}
    return folders | {topic: f"bench.{folder}.{topic}" for topic, folder in topics.items()}


FAMILIES = families()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Competitors in turn, correctness first.")
    commands = parser.add_subparsers(dest="command", required=True)
    for family in sorted(FAMILIES):
        module = import_module(FAMILIES[family])
        command = commands.add_parser(family, description=module.__doc__)
        module.add_arguments(command)
        command.add_argument("--out", type=Path, help="write the numbers here, as JSON")
    report = commands.add_parser("report", help="Markdown from what --out wrote")
    report.add_argument("files", nargs="*", type=Path, help="all of bench/results by default")
    report.add_argument("--figure", type=Path, help="draw all results as one figure here instead")
    report.add_argument("--page", type=Path, help="write the short table of the file between the marks of this page")
    report.add_argument("--site", type=Path, help="write the tables of the site into this folder")
    arguments = sys.argv[1:]
    on_card = arguments[:2] == ["--device", "cuda"] or arguments[:1] == ["--device=cuda"]
    return parser.parse_args(["cuda", *arguments[1 + (arguments[0] == "--device") :]] if on_card else arguments)


def as_lines(results: Mapping[str, Any]) -> str:
    """JSON with one record per line, so that a new measurement makes a short diff."""
    parts = []
    for name, value in results.items():
        rows = [json.dumps(record) for record in value] if isinstance(value, list) else []
        text = "[\n  " + ",\n  ".join(rows) + "\n ]" if rows else json.dumps(value)
        parts.append(f"{json.dumps(name)}: {text}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def measure(arguments: argparse.Namespace) -> None:
    machine.refuse_unfair_environment()
    started = time.perf_counter()
    try:
        results = import_module(FAMILIES[arguments.command]).main(arguments)
    except gate.GateError as error:
        raise SystemExit(f"bench: {error}. No ratios while results differ.") from None
    print(f"\n{time.perf_counter() - started:.0f} s")
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(as_lines(results))
        print(f"written: {arguments.out}")


def tables_of(family: str) -> ModuleType:
    """Return the module that makes a family's tables: `table` in its package, or `<module>_table` beside its module."""
    module = import_module(FAMILIES[family])
    return import_module(f"{module.__name__}.table" if hasattr(module, "__path__") else f"{module.__name__}_table")


def markdown(results: Mapping[str, Any]) -> str:
    """Return all tables of a family."""
    return str(tables_of(results["family"]).markdown(results))


def write_site(results: figure.Results, folder: Path) -> None:
    """Write the summary, and the tables of each folder of families."""
    folders = {family: module.split(".")[1] for family, module in FAMILIES.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"summary": site.summary(results), **site.pages(results, markdown, folders)}.items():
        (folder / f"{name}.md").write_text(text)


def report(
    files: list[Path], drawing: Path | None = None, folder: Path | None = None, page: Path | None = None
) -> None:
    every = figure.read(files)
    if drawing is not None:
        figure.draw(every, drawing)
    elif folder is not None:
        write_site(every, folder)
    elif page is not None:
        for _, results in every:
            page.write_text(tables_of(results["family"]).page(page.read_text(), results))
    else:
        print("\n".join(markdown(results) for _, results in every))


def main() -> None:
    arguments = parse_arguments()
    if arguments.command == "report":
        report(arguments.files, arguments.figure, arguments.site, arguments.page)
    else:
        measure(arguments)


if __name__ == "__main__":
    main()
