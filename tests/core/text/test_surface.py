"""Every public name is shown where a user would look for it: on a page, in an example, or in README."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import fastiter

ROOT = Path(__file__).parents[3]
#: Modules with the names of other packages, which their pages list as those packages do
OTHERS = re.compile(r"\bcompat\b|\breference\b|\.flashrnn$")


def public_names(module: ModuleType) -> Iterator[str]:
    """Yield the public names of a module and of its public submodules, as they are imported."""
    for name in module.__all__:
        value = getattr(module, name)
        path = f"{module.__name__}.{name}"
        if isinstance(value, ModuleType):
            if not OTHERS.search(path):
                yield from public_names(value)
        elif not name.startswith("_"):
            yield path


def shown_words() -> set[str]:
    """Return the words of README, the pages and the examples; the API pages, which list all names, are no help."""
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "api" not in path.parts]
    programs = (ROOT / "examples").rglob("*.py")
    return {word for path in (ROOT / "README.md", *pages, *programs) for word in re.findall(r"\w+", path.read_text())}


@pytest.mark.parametrize("package", ["fastiter", "fastiter.torch"])
def test_every_public_name_is_shown(package: str) -> None:
    if package == "fastiter.torch":
        pytest.importorskip("torch")
    names = set(public_names(importlib.import_module(package)))
    assert len(names) > 100 and f"{package}.lstm" in names
    words = shown_words()
    assert sorted(name for name in names if name.rpartition(".")[2] not in words) == []


def test_names_of_submodules_are_found() -> None:
    assert {"fastiter.relax.sor", "fastiter.fixedpoint.prox.prox_l1"} <= set(public_names(fastiter))
