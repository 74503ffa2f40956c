"""Settings of Sphinx, which makes a site of this folder: make docs."""

import subprocess
import sys
from pathlib import Path

project = "fastiter"
extensions = ["myst_parser"]
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["benchmark_tables.md"]

HERE = Path(__file__).parent


def write_benchmark_tables(app: object) -> None:
    """Write the tables that benchmarks.md includes, from the results of all runs."""
    results = sorted((HERE.parent / "bench" / "results").glob("*.json"))
    command = [sys.executable, "-m", "bench", "report", *map(str, results)]
    done = subprocess.run(command, cwd=HERE.parent, check=True, capture_output=True, text=True)
    (HERE / "benchmark_tables.md").write_text(done.stdout)


def setup(app) -> None:
    """Register what runs before a build."""
    app.connect("builder-inited", write_benchmark_tables)
