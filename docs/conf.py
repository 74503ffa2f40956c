"""Settings for Sphinx, which builds the site from this folder: make docs."""

import os
import re
import subprocess
import sys
from inspect import ismodule
from pathlib import Path
from urllib.request import urlopen

import fastiter

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from gallery_sources import GROUPS, table_of_papers, write_sources  # noqa: E402 (in this folder)
from thumbnails import write_thumbnail  # noqa: E402 (in this folder)

project = "fastiter"
author = "The fastiter developers"
version = release = fastiter.__version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinx-mathjax-offline",
]
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 4
exclude_patterns = ["benchmarks/tables", "gallery/sg_execution_times.rst"]
nitpicky = True
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

templates_path = ["templates"]

html_theme = "pydata_sphinx_theme"
html_title = "fastiter"
html_theme_options = {
    "github_url": "https://github.com/fastiter/fastiter",
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
}
html_context = {"default_mode": "auto"}
html_static_path = ["static"]
html_css_files = ["wide.css"]

autosummary_generate = True
autosummary_imported_members = True
#: Methods that scikit-learn, if it is installed, adds to its estimators' subclasses
autodoc_default_options = {"exclude-members": "set_fit_request, set_predict_request, set_score_request"}
autodoc_typehints = "none"  # the Parameters sections describe types in words
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

GALLERY_SOURCES, THUMBNAILS = (HERE.parent / "build" / name for name in ("gallery_sources", "thumbnails"))
sphinx_gallery_conf = {
    "examples_dirs": str(GALLERY_SOURCES),
    "gallery_dirs": "gallery",
    "plot_gallery": False,  # the examples take minutes to run
    "subsection_order": [os.path.relpath(GALLERY_SOURCES / folder, HERE) for folder, *_ in GROUPS.values()],
    "within_subsection_order": "FileNameSortKey",
    "thumbnail_size": (400, 280),  # twice the size on the page, for screens with many pixels
    "backreferences_dir": "api/examples",
    "doc_module": ("fastiter",),
    "image_scrapers": (),
    "reset_modules": (),
    "write_computation_times": False,
    "show_signature": False,
    "remove_config_comments": True,
    "download_all_examples": False,
}

#: Sites that references link to if their inventories can be fetched, each with its packages
intersphinx_mapping: dict[str, tuple[str, None]] = {}
nitpick_ignore_regex: list[tuple[str, str]] = []
OTHER_SITES = {
    "python": ("https://docs.python.org/3/", sorted(sys.stdlib_module_names)),
    "numpy": ("https://numpy.org/doc/stable/", ["numpy"]),
    "scipy": ("https://docs.scipy.org/doc/scipy/", ["scipy"]),
    "torch": ("https://docs.pytorch.org/docs/stable/", ["torch"]),
}

SPECIAL = re.compile(r"\||(?<=[(,] )\*(?=\w)|(?<=\()\*(?=\w)")
NAMESPACES = {
    "fastiter": "Arrays: recurrences, scans, the delta rule, Newton along time",
    "fastiter.ssm": "Arrays: state-space models, matrix memories, short convolutions",
    "fastiter.quant": "Arrays: number formats and arithmetic on them",
    "fastiter.relax": "Arrays: relaxation of linear systems",
    "fastiter.fixedpoint": "Arrays: fixed points",
    "fastiter.fixedpoint.monotone": "Arrays and tensors: monotone inclusions",
    "fastiter.fixedpoint.prox": "Arrays: proximal operators and projections",
    "fastiter.bcd": "Arrays: block coordinate descent",
    "fastiter.mdp": "Arrays: Markov decision processes",
    "fastiter.mdp.compat.mdp": "Arrays: pymdptoolbox's solvers",
    "fastiter.mdp.distributional": "Arrays: laws of returns",
    "fastiter.mdp.examples": "Arrays: example decision processes",
    "fastiter.relax.compat": "Arrays: the sweeps of PyAMG, by its signatures",
    "fastiter.experimental": "Arrays: functions without a stable interface",
    "fastiter.torch": "Tensors: functions",
    "fastiter.torch.nn": "Tensors: modules",
    "fastiter.torch.ssm": "Tensors: state-space models, matrix memories, short convolutions",
    "fastiter.torch.distributed": "Tensors: sequences, heads and systems divided among ranks",
    "fastiter.torch.mdp": "Tensors: Markov decision processes",
    "fastiter.torch.relax": "Tensors: linear systems",
    "fastiter.torch.bcd": "Tensors: block coordinate descent",
    "fastiter.torch.fixedpoint.prox": "Tensors: proximal operators and projections",
    "fastiter.torch.fixedpoint": "Tensors: fixed points",
    "fastiter.torch.quant": "Tensors: number formats",
    "fastiter.torch.decode": "Tensors: whole language models, token by token",
    "fastiter.torch.experimental": "Tensors: modules without a stable interface",
    "fastiter.torch.onnx": "Tensors: export to ONNX",
    "fastiter.torch.compat": "Tensors: functions by the signatures of other libraries",
    "fastiter.torch.compat.causal_conv1d": "Tensors: the functions of causal_conv1d",
    "fastiter.torch.compat.fla": "Tensors: the functions of flash-linear-attention",
    "fastiter.torch.compat.mamba_ssm": "Tensors: the functions of mamba_ssm",
    "fastiter.torch.compat.mlstm_kernels": "Tensors: the functions of mlstm_kernels",
    "fastiter.tune": "Launch shapes of GPU kernels",
}


def answers(url: str) -> bool:
    """Return whether the inventory of a site can be fetched."""
    try:
        with urlopen(f"{url}objects.inv", timeout=5) as reply:
            return bool(reply.read(1))
    except OSError:
        return False


def write_benchmark_tables(app: object) -> None:
    """Write the tables that benchmarks.md and the pages in benchmarks/ include, from the results of all runs."""
    command = [sys.executable, "-m", "bench", "report", "--site", str(HERE / "benchmarks" / "tables")]
    subprocess.run(command, cwd=HERE.parent, check=True)


def write_api() -> None:
    """Write a page per namespace with a table of its public functions and classes; autosummary writes their pages."""
    from importlib import import_module

    folder = HERE / "api"
    folder.mkdir(exist_ok=True)
    for name, title in NAMESPACES.items():
        module = import_module(name)
        public = [each for each in module.__all__ if not each.startswith("_") and not ismodule(getattr(module, each))]
        lines = [f".. module:: {name}", "", name, "=" * len(name), "", f"{title}.", ""]
        lines += [".. autosummary::", "   :toctree: generated", "", *(f"   {each}" for each in public), ""]
        (folder / f"{name}.rst").write_text("\n".join(lines))
    links = "\n".join(f"   {name}" for name in NAMESPACES)
    head = "API\n===\n\nAll public functions and classes, by the module from which they are imported.\n\n"
    (folder / "index.rst").write_text(f"{head}.. toctree::\n   :maxdepth: 2\n\n{links}\n")


def escape(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Escape |x| and (*grid, k) in docstrings, which reStructuredText would parse as a substitution and as emphasis."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = line.split("``")  # every second part is a literal
            lines[i] = "``".join(part if k % 2 else SPECIAL.sub(r"\\\g<0>", part) for k, part in enumerate(parts))


def prepare(app, config) -> None:
    """Write the API pages and the gallery's programs before Sphinx collects pages, and find other sites."""
    write_api()
    examples, gallery, figures = HERE.parent / "examples", HERE / "gallery", HERE / "images" / "gallery"
    THUMBNAILS.mkdir(parents=True, exist_ok=True)
    for figure in figures.glob("*.png"):
        write_thumbnail(figure, THUMBNAILS / figure.name)
    write_sources(examples, figures, os.path.relpath(THUMBNAILS, HERE), GALLERY_SOURCES)
    gallery.mkdir(exist_ok=True)
    (gallery / "papers.rst").write_text(table_of_papers(examples))
    for name, (url, packages) in OTHER_SITES.items():
        if answers(url):
            config.intersphinx_mapping[name] = (url, None)
        else:
            config.nitpick_ignore_regex.append(("py:.*", rf"({'|'.join(packages)})(\..*)?"))


def setup(app) -> None:
    """Register the functions that run before a build and on each docstring."""
    app.connect("config-inited", prepare, priority=1)
    app.connect("builder-inited", write_benchmark_tables)
    app.connect("autodoc-process-docstring", escape, priority=100)  # before numpydoc
