"""The files of a release are consistent, and tell users to install the correct distribution."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import fastiter

ROOT = Path(__file__).parents[3]


def tracked(*patterns: str) -> list[Path]:
    found = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in found.stdout.split()]


def test_no_text_recommends_installing_the_other_project() -> None:
    """The name fastiter on the package index belongs to another project; ours is fastiter-kernels."""
    wrong = re.compile(r"pip\s+install\s+(?:-\S+\s+)*[\"']?fastiter(?![-\w])")
    assert wrong.search("pip install fastiter") and wrong.search("pip install -U 'fastiter[torch]'")
    assert not wrong.search("pip install fastiter-kernels[torch]")
    # Results record the program's output when they were measured.
    files = [path for path in tracked() if path.suffix != ".json" and path != Path(__file__)]
    assert len(files) > 500
    assert [str(path) for path in files if wrong.search(path.read_text(errors="replace"))] == []


def test_distribution() -> None:
    assert version("fastiter-kernels") == fastiter.__version__
    found = metadata("fastiter-kernels")
    assert {url.partition(",")[0] for url in found.get_all("Project-URL")} == {
        "Changelog", "Documentation", "Issues", "Repository"
    }  # fmt: skip


def test_citation_and_changelog_have_the_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (\S+)$", citation, re.MULTILINE) == [fastiter.__version__]
    assert re.findall(r'^  version: "(\S+)"$', (ROOT / "recipe/recipe.yaml").read_text(), re.MULTILINE) == [
        fastiter.__version__
    ]
    assert f"## {fastiter.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_windows_is_refused_before_a_compiler_is_searched_for(tmp_path: Path) -> None:
    cmake = [sys.executable, "-m", "cmake", "-S", ROOT, "-B", tmp_path, "-DSKBUILD_PROJECT_VERSION=0.0.0"]
    done = subprocess.run([*cmake, "-DCMAKE_SYSTEM_NAME=Windows"], capture_output=True, text=True)
    assert done.returncode != 0
    sentence = "fastiter does not run on Windows, as its threads and memory are POSIX's: install it in WSL"
    assert sentence in " ".join(done.stderr.split())
    assert "compiler" not in done.stdout


def required(distribution: str, extra: str) -> set[str]:
    """Return the names of the distributions that this one requires with an extra, directly or not, if installed."""
    found: set[str] = set()
    left = [(distribution, extra)]
    while left:
        name, extra = left.pop()
        try:
            entries = [Requirement(entry) for entry in requires(name) or ()]
        except PackageNotFoundError:
            continue
        for entry in entries:
            if (entry.marker is None or entry.marker.evaluate({"extra": extra})) and entry.name.lower() not in found:
                found.add(entry.name.lower())
                left += [(entry.name, each) for each in ("", *entry.extras)]
    return found


def test_the_tests_of_arrays_need_no_torch() -> None:
    """The sanitizers' environment has the extra "test" alone, as they cannot follow torch's allocations quickly."""
    pytest.importorskip("torchdeq")
    assert "torch" in required("torchdeq", "")
    needed = required("fastiter-kernels", "test")
    assert {"pytest", "scipy"} <= needed
    assert "torch" not in needed


@pytest.mark.parametrize("path", tracked(".github/workflows/*.yml"), ids=lambda path: path.name)
def test_workflows_have_only_the_permissions_that_they_need(path: Path) -> None:
    text = path.read_text()
    assert "\npermissions:\n  contents: read\n" in text
    assert "password" not in re.sub("#.*", "", text) and "secrets." not in text
    for make in re.findall(r"run: make ([\w-]+)", text):
        assert re.search(rf"^{make}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_linters_have_one_version() -> None:
    """The commit hooks run the versions of `make lint`."""
    hooks = dict(re.findall(r"repo: .*/(\S+)\n    rev: v(\S+)", (ROOT / ".pre-commit-config.yaml").read_text()))
    project = (ROOT / "pyproject.toml").read_text()
    for name, hook in (("ruff", "ruff-pre-commit"), ("clang-format", "mirrors-clang-format")):
        pinned = re.search(rf'"{name}~=(\S+)"', project)
        assert pinned is not None
        assert hooks[hook].startswith(pinned[1])


@pytest.mark.parametrize("path", tracked(".github/workflows/*.yml"), ids=lambda path: path.name)
def test_actions_are_pinned(path: Path) -> None:
    """A tag may be moved by whoever takes over an action's repository; a commit cannot."""
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action) for action in used), used
