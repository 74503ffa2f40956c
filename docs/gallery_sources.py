"""Copies of the examples for sphinx-gallery, each with a title, a short program, and the figure of the same name.

Examples take minutes, so none runs when the site is built. The figures on the site are drawn by
`python examples/NAME.py --figure docs/images/gallery/NAME.png`. The short program on top of a page is
examples/short/NAME.py, which needs no other file and which a test runs. The gallery is grouped by the field
`:Starts from:` of the docstrings, and its table of papers has their fields `:Paper:`, `:Shows:` and `:Does not show:`.
"""

from __future__ import annotations

import ast
import re
import shutil
import textwrap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

HEADER = """
Gallery
=======

Programs to start from, by what you have. On top of a page is a short program to copy, if the example has one; then
follow the figure and the whole program, which takes seconds to minutes on two cores and whose options ``--help`` lists.
A whole program imports modules of its folder: its page has links to all files, to keep in one folder. Those of
``examples/papers`` reproduce published results: :doc:`a table of the papers </gallery/papers>` says which.

.. toctree::
   :hidden:

   papers
"""
#: Folders of the gallery: what a reader has, the title, and a sentence
GROUPS = {
    "a model": ("model", "You have a model", "A network or language model that should compute the same, but faster."),
    "a training run": ("training", "You have a training run", "A model to train, and choices to make on the way."),
    "a matrix": ("matrix", "You have a matrix", "A linear system, or a sum of squares with constraints or penalties."),
    "a map": ("map", "You have a map", "A function whose fixed point, or zero, is wanted."),
    "a decision": ("decision", "You have a decision", "States, actions, chances and rewards or costs, all known."),
    "feedback": ("feedback", "You have feedback", "Choices whose consequences are only known after they are made."),
}
#: Titles of examples; an example that is not listed is titled by its docstring up to the first colon or period
TITLES = {
    "char_lm": "Character-level language models",
    "constrained_logistic": "Logistic regression on a sphere",
    "custom_cell": "A cell of your own, all steps at once",
    "decode_stream": "A language model, token by token",
    "deep_cg": "A network inside conjugate gradients",
    "deq_sequence": "Digits, row by row, by an equilibrium",
    "distributed_poisson": "A Poisson problem over processes",
    "dsa": "Neutron transport, accelerated by diffusion",
    "graph_solver": "Values of larger graphs than trained on",
    "halpern_games": "Games and robust regression by few evaluations",
    "hopfield_bags": "Sets of digits, pooled by a Hopfield network",
    "hopfield_retrieval": "Digits from half of their pixels",
    "label_propagation": "Labels on a lattice, block by block",
    "lasso_path": "A lasso path and its active sets",
    "learning_to_relax": "Learning omega over a sequence of systems",
    "low_precision_training": "Training in low-precision formats",
    "mamba_cpu": "Mamba on a CPU, before and after accelerate",
    "monotone_dbm": "Completing digits by a monotone Boltzmann machine",
    "monotone_deq": "Digits by monotone equilibrium networks",
    "pararnn_lm": "ParaGRU against torch.nn.GRU",
    "pde_constrained": "Control by a Poisson equation",
    "poisson": "A Poisson problem by every method",
    "qfx_digits": "Learned binary points, exported to HLS",
    "refinement": "Refining a wrong solver",
    "replace_lstm": "One call: replace(model)",
    "rti_diffusion": "A diffusion policy in real time",
    "schroedinger_bridge": "Dynamics from snapshots of other individuals",
    "sequence_parallel": "A long sequence over processes",
    "slstm_forecast": "Forecasting carbon dioxide with an sLSTM",
    "smoother": "Sweeps inside PyAMG's multigrid",
    "spdinv": "Inverting a diffusion sampler",
    "state_tracking": "Tracking a state with negative eigenvalues",
    "tirex_forecast": "TiRex, before and after accelerate",
    "trajectory_smoothing": "Smoothing a path",
}


@dataclass(frozen=True)
class Program:
    """An example that can be run."""

    path: Path

    @cached_property
    def source(self) -> str:
        """The text of the file."""
        return self.path.read_text()

    @cached_property
    def docstring(self) -> str:
        """The docstring of the file."""
        return ast.get_docstring(ast.parse(self.source)) or self.path.stem

    @cached_property
    def title(self) -> str:
        """The title on the site."""
        return TITLES.get(self.path.stem, re.split(r"(?<=\w)[.:]\s", self.docstring)[0].rstrip("."))

    @cached_property
    def fields(self) -> dict[str, str]:
        """The fields at the end of the docstring, each on one line."""
        found = re.findall(r"^:([A-Z][\w ]*): (.*(?:\n +.*)*)", self.docstring, flags=re.MULTILINE)
        return {name: " ".join(text.split()) for name, text in found}

    @property
    def group(self) -> str:
        """The folder of the gallery."""
        return GROUPS[self.fields["Starts from"]][0]

    @property
    def short(self) -> Path | None:
        """The short program on top of the page."""
        folder = self.path.parent.parent if self.path.parent.name == "papers" else self.path.parent
        return found if (found := folder / "short" / self.path.name).exists() else None

    @cached_property
    def files(self) -> list[Path]:
        """The file and the modules of the examples that it imports, directly or not."""
        found = [self.path]
        for file in found:  # which grows
            for name in re.findall(r"^ *from (_[a-z]\w*) import", file.read_text(), flags=re.MULTILINE):
                places = (folder / f"{name}.py" for folder in (file.parent, file.parent.parent))
                module = next(place for place in places if place.exists())
                found += [] if module in found else [module]
        return found


def programs(examples: Path) -> list[Program]:
    """Return the programs in the folder of the examples and in its folder papers."""
    paths = sorted([*examples.glob("*.py"), *examples.glob("papers/*.py")])
    return [program for path in paths if "__name__ ==" in (program := Program(path)).source and path.name[0] != "_"]


def write_sources(examples: Path, images: Path, thumbnails: str, to: Path) -> None:
    """Write a copy of each example that is a program into the folder of its group.

    Parameters
    ----------
    examples, images, to : Path
        The folders of the examples, of their figures, and of the copies; the last one is emptied first.
    thumbnails : str
        The folder of the thumbnails, relative to that of Sphinx's settings.
    """
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    (to / "README.rst").write_text(HEADER.lstrip())
    for folder, title, sentence in GROUPS.values():
        (to / folder).mkdir()
        (to / folder / "README.rst").write_text(f"{title}\n{'-' * len(title)}\n\n{sentence}\n")
    for program in programs(examples):
        copy = _copy(program, examples, images / f"{program.path.stem}.png", thumbnails)
        (to / program.group / program.path.name).write_text(copy)


def table_of_papers(examples: Path) -> str:
    """Return a page with a table of the papers, what each file shows of them, and what it does not show."""
    rows = ["Papers", "======", "", HEADING_OF_TABLE]
    for program in programs(examples):
        if "Paper" in program.fields:
            name = program.path.stem
            file = f":doc:`{name} </gallery/{program.group}/{name}>`"
            cells = [file, *(_escaped(program.fields[key]) for key in ("Paper", "Shows", "Does not show"))]
            rows += [("   * - " if i == 0 else "     - ") + cell for i, cell in enumerate(cells)]
    return "\n".join(rows) + "\n"


HEADING_OF_TABLE = """
Each file of ``examples/papers`` reproduces the core of a paper at a size that takes seconds to minutes on two cores.

.. list-table::
   :header-rows: 1
   :widths: 15 35 30 20

   * - file
     - paper
     - what the file shows
     - what it does not show"""[1:]


def _copy(program: Program, examples: Path, figure: Path, thumbnails: str) -> str:
    """Return the source with a docstring that starts with a title and has the short program, figure and downloads."""
    first, *others = map(_block, program.docstring.split("\n\n"))
    blocks = [program.title, "=" * len(program.title), "", first, *_short(program)]
    blocks.append(f".. image:: /images/gallery/{figure.name}\n   :alt: The figure that {program.path.name} draws\n")
    blocks += [*others, "The whole program", "-----------------", "", _downloads(program, examples)]
    rest = program.source.split("\n")[ast.parse(program.source).body[0].end_lineno or 0 :]
    thumbnail = f"# sphinx_gallery_thumbnail_path = '{thumbnails}/{figure.name}'"
    return "\n".join(['r"""', *blocks, '"""', *rest, thumbnail]).rstrip() + "\n"


def _short(program: Program) -> list[str]:
    """Return the docstring of the short program, and the program without it, as paragraphs."""
    if program.short is None:
        return []
    source = program.short.read_text()
    tree = ast.parse(source)
    said = _escaped(ast.get_docstring(tree) or "")
    code = "\n".join(source.split("\n")[tree.body[0].end_lineno or 0 :]).strip()
    block = f".. code-block:: python\n\n{textwrap.indent(code, '   ')}\n"
    return [f"**In short:** {said[:1].lower()}{said[1:]}\n", block]


def _downloads(program: Program, examples: Path) -> str:
    """Return links to the files that the program needs."""
    own, *modules = (f":download:`{file.name} </../{file.relative_to(examples.parent)}>`" for file in program.files)
    together = f" and what it imports, {', '.join(modules)}: keep them in one folder" if modules else ""
    return f"Download {own}{together}.\n"


def _block(paragraph: str) -> str:
    """Return a paragraph, as a code block if it is indented, as commands and equations are."""
    if not all(line.startswith("    ") for line in paragraph.split("\n")):
        return _escaped(paragraph) + "\n"
    code = textwrap.dedent(paragraph)
    language = "shell" if re.match(r"python |torchrun ", code) else "text"
    return f".. code-block:: {language}\n\n" + textwrap.indent(code, "   ") + "\n"


def _escaped(text: str) -> str:
    """Return a text whose bars outside literals do not begin a substitution."""
    parts = text.split("``")  # every second part is a literal
    return "``".join(part if k % 2 else part.replace("|", r"\|") for k, part in enumerate(parts))
