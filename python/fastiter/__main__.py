"""python -m fastiter prints the configuration; python -m fastiter bench runs a benchmark of half a minute."""

from __future__ import annotations

import argparse

from ._config import show_config


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m fastiter", description=__doc__)
    commands = (
        "config: versions, processor, kernels and optional packages (the default); bench: single calls, compared "
    )
    commands += "with torch, SciPy and others, as far as they are installed"
    parser.add_argument("command", nargs="?", choices=("config", "bench"), default="config", help=commands)
    if parser.parse_args().command == "config":
        show_config()
        return
    from ._self_benchmark import main as benchmark

    benchmark()


if __name__ == "__main__":
    main()
