"""Command lines, progress bars and figures of the examples."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import field, fields
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

T = TypeVar("T")

OURS, THEIRS, OTHERS = "tab:orange", "black", "0.6"  # colors of fastiter, the library it is compared with, and others


# ---- Command lines --------------------------------------------------------------------------------------------------


def option(default: T, text: str, quick: T | None = None) -> T:
    """Return a field of a dataclass that `command_line` reads; `quick` is its value with --quick."""
    return field(default=default, metadata={"help": text, "quick": default if quick is None else quick})


def figure_option(script: str) -> Path:
    """Return the option --figure, by default a PNG next to the script with the same name."""
    return option(Path(script).with_suffix(".png"), "file of the figure")


def command_line(options: type[T], documentation: str | None) -> T:
    """Read the options from the command line.

    Parameters
    ----------
    options : type
        A dataclass whose fields are created by `option`. The type of a default is that of the argument; a tuple takes
        several arguments, and None takes a path.
    documentation : str
        The docstring of the script, whose first line --help shows.
    """
    parser = argparse.ArgumentParser(description=(documentation or "").partition("\n")[0])
    named: list[Any] = list(fields(options))  # type: ignore[arg-type]
    for each in named:
        is_tuple = isinstance(each.default, tuple)
        kind = Path if each.default is None else type(each.default[0] if is_tuple else each.default)
        shown = "" if each.default is None else " (%(default)s)"
        extra: dict[str, Any] = {"nargs": "+"} if is_tuple else {}
        text = each.metadata["help"] + shown
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=kind, default=each.default, help=text, **extra)
    parser.add_argument("--quick", action="store_true", help="a small run, as a quick check")
    if parser.parse_args().quick:
        parser.set_defaults(**{each.name: each.metadata["quick"] for each in named})
    chosen = {name: tuple(x) if isinstance(x, list) else x for name, x in vars(parser.parse_args()).items()}
    del chosen["quick"]
    return options(**chosen)


# ---- Progress bars --------------------------------------------------------------------------------------------------


def progress(total: int, unit: str, label: str = "") -> tqdm[Any]:
    """Return a progress bar with the remaining time at the mean speed so far; in a log, a line every ten seconds."""
    form = "{desc}{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {unit}, {remaining} left{postfix}"
    every = 0.1 if sys.stderr.isatty() else 10
    return tqdm(total=total, unit=unit, desc=label, bar_format=form, smoothing=0, mininterval=every, dynamic_ncols=True)


# ---- Figures --------------------------------------------------------------------------------------------------------


def save(figure: Figure, path: Path) -> None:
    """Write a figure, without the upper and right edges of its panels, and print its path."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    print(f"figure: {path}")


def moving_mean(values: Sequence[float], width: int) -> tuple[range, list[float]]:
    """Return the moving means over `width` values of a curve, and the steps at which their windows end."""
    sums = list(accumulate(values, initial=0.0))
    means = [(end - begin) / width for begin, end in zip(sums, sums[width:], strict=False)]
    return range(width, len(values) + 1), means


def pair_of_bars(axes: Axes, tasks: Sequence[str], theirs: Sequence[float], ours: Sequence[float], form: str) -> None:
    """Draw two bars for each task, labelled with their numbers."""
    for shift, values, color in ((-0.2, theirs, THEIRS), (0.2, ours, OURS)):
        bars = axes.bar([i + shift for i in range(len(tasks))], values, width=0.38, color=color)
        axes.bar_label(bars, fmt=form, padding=2)
    axes.set_xticks(range(len(tasks)), tasks)
    axes.margins(y=0.12)
