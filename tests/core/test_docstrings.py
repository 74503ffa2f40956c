"""The docstrings of the recurrences say in help() what each argument is, what comes back and what is raised."""

from __future__ import annotations

import importlib
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


PACKAGES = ["fastiter", "fastiter.quant", "fastiter.relax", "fastiter.relax.compat", "fastiter.ssm", "fastiter.tune"]
WITH_TORCH = ["fastiter.torch", "fastiter.torch.nn", "fastiter.torch.quant", "fastiter.torch.ssm"]


@pytest.mark.parametrize("names", [PACKAGES, WITH_TORCH], ids=["arrays", "tensors"])
def test_words_are_typed_as_such(names: list[str]) -> None:
    """An argument that is documented as one of some words, {"a", "b"}, is not annotated as any str."""
    if names is WITH_TORCH:
        pytest.importorskip("torch")
    listed, wrong = 0, []
    for public in (
        getattr(package, name) for package in map(importlib.import_module, names) for name in package.__all__
    ):
        text = inspect.getdoc(public) or ""
        for argument in inspect.signature(public).parameters.values() if _has_signature(public) else ():
            of_words = re.search(rf'^{argument.name} : .*{{(None, )?".*}}', text, flags=re.MULTILINE)
            listed += of_words is not None
            if of_words and re.search(r"\bstr\b", str(argument.annotation)):
                wrong.append(f"{public.__name__}: {of_words[0]} has the type {argument.annotation}")
    assert listed
    assert not wrong, "\n".join(wrong)


def _has_signature(value: object) -> bool:
    try:
        inspect.signature(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
