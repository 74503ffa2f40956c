"""Copies of the examples for sphinx-gallery, each with a title and the figure of the same name in docs/images/gallery.

Examples take minutes, so none runs when the site is built. The figures on the site are drawn by
`python examples/NAME.py --figure docs/images/gallery/NAME.png`.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

HEADER = """
Gallery

Single-file programs from the folder ``examples`` of the repository, with the figures that they draw. Each takes
seconds to minutes on two cores; ``--help`` lists the options.
"""
#: Titles of examples; an example that is not listed is titled by the first sentence of its docstring
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


def write_sources(examples: Path, images: Path, to: Path) -> None:
    """Write a copy of each example that is a program.

    Parameters
    ----------
    examples, images, to : Path
        The folders of the examples, of their figures, and of the copies; the last one is emptied first.
    """
    to.mkdir(parents=True, exist_ok=True)
    for old in to.iterdir():
        old.unlink()
    (to / "README.rst").write_text(HEADER.lstrip())
    for path in sorted(examples.glob("*.py")):
        source = path.read_text()
        if not path.name.startswith("_") and '__name__ == "__main__"' in source:
            (to / path.name).write_text(_copy(path.stem, source, images / f"{path.stem}.png"))


def _copy(name: str, source: str, figure: Path) -> str:
    """Return the source with a docstring that starts with a title and ends with the figure, if there is one."""
    module = ast.parse(source)
    text = ast.get_docstring(module) or name
    title = TITLES.get(name, re.split(r"(?<=\w)[.:]\s", text)[0].rstrip("."))
    blocks = [title, "=" * len(title), "", *map(_block, text.split("\n\n"))]
    if figure.exists():
        blocks.append(f".. image:: /images/gallery/{figure.name}\n   :alt: The figure that {name}.py draws")
    rest = source.split("\n")[module.body[0].end_lineno or 0 :]
    thumbnail = f"# sphinx_gallery_thumbnail_path = 'images/gallery/{figure.name}'" if figure.exists() else ""
    return "\n".join(['r"""', *blocks, '"""', *rest, thumbnail]).rstrip() + "\n"


def _block(paragraph: str) -> str:
    """Return a paragraph, as a code block if it is indented, as commands are."""
    if all(line.startswith("    ") for line in paragraph.split("\n")):
        paragraph = ".. code-block:: shell\n\n" + textwrap.indent(textwrap.dedent(paragraph), "   ")
    return paragraph + "\n"
