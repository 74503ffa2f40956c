"""Runs the blocks of Python in README and the pages of documentation: those of a page share their names, in order."""

from __future__ import annotations

from doctest import ELLIPSIS, NORMALIZE_WHITESPACE
from importlib.util import find_spec
from platform import machine

import pytest

sybil = pytest.importorskip("sybil")
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser  # noqa: E402

pytest_collect_file = sybil.Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS | NORMALIZE_WHITESPACE), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
    excludes=["docs/benchmarks/tables/*.md"],
).pytest()


def pytest_configure(config: pytest.Config) -> None:
    """Let NumPy's products of matrices warn on ARM64, where those of some BLAS libraries do so for finite numbers."""
    if machine() in ("aarch64", "arm64"):
        config.addinivalue_line("filterwarnings", "ignore:.* encountered in matmul:RuntimeWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip doctests that import torch if it is not installed, in modules that do not import it themselves."""
    if find_spec("torch") is not None:
        return
    for item in items:
        if isinstance(item, pytest.DoctestItem) and any("import torch" in one.source for one in item.dtest.examples):
            item.add_marker(pytest.mark.skip(reason="torch is not installed"))
