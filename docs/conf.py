"""Settings of Sphinx, which makes a site of this folder: make docs."""

import re
import subprocess
import sys
from pathlib import Path

import fastiter

project = "fastiter"
author = "The fastiter developers"
version = release = fastiter.__version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["benchmark_tables.md"]

templates_path = ["templates"]

html_theme = "pydata_sphinx_theme"
html_title = "fastiter"
html_theme_options = {
    "github_url": "https://github.com/fastiter/fastiter",
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
}
html_static_path = ["static"]
html_css_files = ["wide.css"]

autosummary_generate = True
autosummary_imported_members = True
autodoc_typehints = "none"  # they are in the parameters, in words
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

HERE = Path(__file__).parent
SPECIAL = re.compile(r"\||(?<=[(,] )\*(?=\w)|(?<=\()\*(?=\w)")
NAMESPACES = {
    "fastiter": "Arrays: recurrences, scans, the delta rule, Newton along time",
    "fastiter.ssm": "Arrays: state-space models, matrix memories, short convolutions",
    "fastiter.quant": "Arrays: number formats and arithmetic on them",
    "fastiter.relax": "Arrays: relaxation of linear systems",
    "fastiter.mdp": "Arrays: Markov decision processes",
    "fastiter.mdp.examples": "Arrays: example decision processes",
    "fastiter.torch": "Tensors: functions",
    "fastiter.torch.nn": "Tensors: modules",
    "fastiter.torch.ssm": "Tensors: state-space models, matrix memories, short convolutions",
    "fastiter.torch.quant": "Tensors: number formats",
    "fastiter.tune": "Launch shapes of GPU kernels",
}


def write_benchmark_tables(app: object) -> None:
    """Write the tables that benchmarks.md includes, from the results of all runs."""
    results = sorted((HERE.parent / "bench" / "results").glob("*.json"))
    command = [sys.executable, "-m", "bench", "report", *map(str, results)]
    done = subprocess.run(command, cwd=HERE.parent, check=True, capture_output=True, text=True)
    (HERE / "benchmark_tables.md").write_text(done.stdout)


def write_api() -> None:
    """Write a page for each namespace, with its public functions and classes in a table; autosummary adds theirs."""
    from importlib import import_module

    folder = HERE / "api"
    folder.mkdir(exist_ok=True)
    for name, title in NAMESPACES.items():
        module = import_module(name)
        public = [each for each in module.__all__ if callable(getattr(module, each))]
        lines = [f"{name}", "=" * len(name), "", f"{title}.", "", f".. currentmodule:: {name}", ""]
        lines += [".. autosummary::", "   :toctree: generated", "", *(f"   {each}" for each in public), ""]
        (folder / f"{name}.rst").write_text("\n".join(lines))
    links = "\n".join(f"   {name}" for name in NAMESPACES)
    head = "API\n===\n\nAll public functions and classes by the module that they are imported from.\n\n"
    (folder / "index.rst").write_text(f"{head}.. toctree::\n   :maxdepth: 2\n\n{links}\n")


def escape(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Escape |x| and (*grid, k) in docstrings, which reStructuredText takes for a substitution and for emphasis."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = line.split("``")  # every second one is literal
            lines[i] = "``".join(part if k % 2 else SPECIAL.sub(r"\\\g<0>", part) for k, part in enumerate(parts))


def setup(app) -> None:
    """Register what runs before a build and on each docstring."""
    app.connect("builder-inited", write_benchmark_tables)
    app.connect("autodoc-process-docstring", escape, priority=100)  # before numpydoc


write_api()  # before Sphinx looks for pages
