"""Helpers of the files in this folder: command lines, progress bars and figures, as in all examples."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where _script.py is, unless it is next to this file

from _script import (
    OTHERS,
    OURS,
    THEIRS,
    command_line,
    figure_option,
    moving_mean,
    option,
    pair_of_bars,
    progress,
    save,
)

__all__ = [
    "OTHERS",
    "OURS",
    "THEIRS",
    "command_line",
    "figure_option",
    "moving_mean",
    "option",
    "pair_of_bars",
    "progress",
    "save",
]
