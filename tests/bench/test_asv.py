"""The cases of bench/asv: one class for each family with kernels and one for tune, whose methods run."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

import bench.asv.benchmarks.families as families
from tests.core.test_layout import CPP_FAMILIES

ROOT = Path(__file__).parents[2]
CASES = [
    (kind, method)
    for _, kind in inspect.getmembers(families, inspect.isclass)
    for method, _ in inspect.getmembers(kind, inspect.isfunction)
    if kind.__module__ == families.__name__ and method.startswith("time_")
]


def test_every_family_has_a_case() -> None:
    assert {kind.__name__.lower() for kind, _ in CASES} == CPP_FAMILIES - {"dense"} | {"tune"}


@pytest.mark.parametrize(("kind", "method"), CASES, ids=lambda part: getattr(part, "__name__", part))
def test_a_case_runs(kind: type, method: str) -> None:
    case = kind()
    case.setup()
    getattr(case, method)()


def test_the_settings_name_existing_files() -> None:
    folder = ROOT / "bench/asv"
    settings = json.loads((folder / "asv.conf.json").read_text())
    assert (folder / settings["repo"]).resolve() == ROOT
    assert (folder / settings["benchmark_dir"] / "families.py").is_file()
