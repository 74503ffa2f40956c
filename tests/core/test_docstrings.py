"""The docstrings of the recurrences say in help() what each argument is, what comes back and what is raised."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import fastiter

NAMES = ["lstm", "gru", "elman", "slstm", "linear_scan", "block_scan", "delta_scan", "paragru", "paralstm", "paraslstm"]
SECTIONS = ["Parameters", "Returns", "Raises", "See Also", "References", "Examples"]


@pytest.mark.parametrize("of_tensors", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_documented(name: str, of_tensors: bool) -> None:
    if of_tensors:
        pytest.importorskip("torch")
    function: Any = getattr(fastiter.torch if of_tensors else fastiter, name)
    text = inspect.getdoc(function) or ""
    _, *parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", text, flags=re.MULTILINE)
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    assert list(found) == [s for s in SECTIONS if not (of_tensors and s == "References")]
    documented = re.findall(r"^(\w[\w, ]*) :", found["Parameters"], flags=re.MULTILINE)
    assert [one for names in documented for one in names.split(", ")] == list(inspect.signature(function).parameters)
    assert "%(" not in text and "{" not in text.replace('{"', "") and max(map(len, text.split("\n"))) <= 116
    for word in ("ndarray", "NumPy", "ml_dtypes", "backend") if of_tensors else ("Tensor",):
        assert word not in found["Parameters"]
