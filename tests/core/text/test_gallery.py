"""The gallery's pages have titles, short programs that run when copied, all files of a program, and thumbnails."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest

from docs.gallery_sources import Program, programs, table_of_papers, write_sources
from tests.support.scripts import run_on_two_ranks, run_script

EXAMPLES = Path(__file__).parents[3] / "examples"
FIGURES = EXAMPLES.parent / "docs" / "images" / "gallery"
PROGRAMS = {program.path.stem: program for program in programs(EXAMPLES)}
SHORT = sorted((EXAMPLES / "short").glob("*.py"))
LONGEST = 24  # lines of a short program, without its docstring


def test_pages_are_valid_and_have_titles(tmp_path: Path) -> None:
    """The pages of programs and sections, the gallery and its table of papers are valid reStructuredText."""
    core, roles = pytest.importorskip("docutils.core"), pytest.importorskip("docutils.parsers.rst.roles")
    for role in ("doc", "download"):
        roles.register_generic_role(role, pytest.importorskip("docutils.nodes").inline)
    write_sources(EXAMPLES, FIGURES, "thumbnails", tmp_path)
    texts = {path.stem: ast.get_docstring(ast.parse(path.read_text())) or "" for path in tmp_path.rglob("*.py")}
    assert texts.keys() == PROGRAMS.keys()
    gallery = re.sub(r"\.\. toctree::(\n|\n .*)*$", "", (tmp_path / "README.rst").read_text())
    sections = {path.parent.name: path.read_text() for path in tmp_path.glob("*/README.rst")}
    for name, text in {**texts, **sections, "gallery": gallery, "papers": table_of_papers(EXAMPLES)}.items():
        page = core.publish_doctree(text, source_path=name, settings_overrides={"halt_level": 2, "report_level": 5})
        assert page.get("title"), name


def test_programs_to_start_from_have_a_short_one() -> None:
    starters = {name for name, program in PROGRAMS.items() if program.path.parent == EXAMPLES}
    assert starters <= {path.stem for path in SHORT} <= PROGRAMS.keys()


@pytest.mark.parametrize("short", SHORT, ids=lambda path: path.stem)
def test_short_programs_run_when_copied(short: Path, tmp_path: Path) -> None:
    """They are short, and run alone in a folder."""
    source = short.read_text()
    tree = ast.parse(source)
    assert source.count("\n", source.index('"""\n') + 4) <= LONGEST
    imported = [node.names[0].name for node in tree.body if isinstance(node, ast.Import)]
    imported += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    for package in {name.partition(".")[0] for name in imported}:
        pytest.importorskip(package)
    alone = tmp_path / short.name
    shutil.copy(short, alone)
    needs_ranks = "torchrun" in (ast.get_docstring(tree) or "")
    output = run_on_two_ranks(alone) if needs_ranks else run_script(alone, OMP_NUM_THREADS="1")
    assert re.search(r"\d", output)


def test_a_download_is_complete(tmp_path: Path) -> None:
    """Every module that one of a program's files imports from the examples is among them; they run in one folder."""
    for name, program in PROGRAMS.items():
        text = "\n".join(file.read_text() for file in program.files)
        assert {file.stem for file in program.files} == {name, *re.findall(r"from (_[a-z]\w*) import", text)}
    assert [file.name for file in PROGRAMS["char_lm"].files] == [
        "char_lm.py", "_language_model.py", "_mamba.py", "_script.py"
    ]  # fmt: skip
    for package in ("matplotlib", "tqdm"):
        pytest.importorskip(package)
    for file in PROGRAMS["robust_walk"].files:
        shutil.copy(file, tmp_path)
    output = run_script(tmp_path / "robust_walk.py", "--quick", "--figure", str(tmp_path / "figure.png"))
    assert "in its worst wind" in output


# ---- Thumbnails -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_every_program_has_a_figure_with_a_panel(program: Program) -> None:
    """The panel is large enough for 200 pixels on a screen, and is not all of the figure."""
    pytest.importorskip("numpy")
    image = pytest.importorskip("PIL.Image")
    from docs.thumbnails import main_panel

    figure = image.open(FIGURES / f"{program.path.stem}.png")
    panel = main_panel(figure)
    assert panel is not None
    left, upper, right, lower = panel
    assert right - left >= 200 and lower - upper >= 140
    assert (right - left) * (lower - upper) < 0.95 * figure.width * figure.height


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_panels_are_those_that_were_drawn(columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The boxes are those of the axes, to the width of a line; of panels of the same size the first one is shown."""
    image, drawing = pytest.importorskip("PIL.Image"), pytest.importorskip("matplotlib.figure")
    pytest.importorskip("tqdm")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from _script import save

    from docs.thumbnails import main_panel, panels

    figure = drawing.Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for each in axes:
        each.plot([0, 1, 2], [3, 1, 2], color="tab:orange")
        each.set(xlabel="steps", ylabel="residual", title="a title")
    save(figure, tmp_path / "figure.png")
    drawn = image.open(tmp_path / "figure.png")
    scale = drawn.width / figure.bbox.width
    boxes = [each.get_window_extent() for each in axes]
    expected = [[scale * x for x in (b.x0, figure.bbox.height - b.y1, b.x1, figure.bbox.height - b.y0)] for b in boxes]
    for box in expected:
        assert any(all(abs(a - b) <= 3 for a, b in zip(box, found, strict=True)) for found in panels(drawn))
    shown = main_panel(drawn)
    assert shown is not None and all(abs(a - b) <= 3 for a, b in zip(expected[0], shown, strict=True))
