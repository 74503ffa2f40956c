"""Docstrings of public functions and classes are complete: they pass numpydoc's rules, except some of style."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from numpydoc.validate import Validator, get_doc_object, validate

import fastiter

NAMES = ["lstm", "gru", "elman", "slstm", "linear_scan", "block_scan", "delta_scan", "paragru", "paralstm", "paraslstm"]
SECTIONS = ["Parameters", "Returns", "Raises", "See Also", "References", "Examples"]
#: Rules that do not apply here: first lines are equations, as descriptions may be (SS02, SS05, PR08, RT04), and may be
#: the whole text (ES01), "integers" are arrays of them (PR06), and a single result may have a name (RT02).
STYLE = {"ES01", "PR06", "PR08", "RT02", "RT04", "SS02", "SS05"}


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
WITH_TORCH += ["fastiter.torch.distributed"]


@pytest.mark.parametrize("names", [PACKAGES, WITH_TORCH], ids=["arrays", "tensors"])
def test_documented_choices_are_typed_as_literals(names: list[str]) -> None:
    """An argument documented as a choice, {"a", "b"}, is not annotated as str."""
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


class Rules(Validator):
    """numpydoc's rules; fields of NamedTuples and dataclasses may be Attributes, as users read but do not pass them."""

    source_file_def_line = None  # otherwise a comment could switch rules off

    def _fields(self) -> tuple[str, ...]:
        own = dataclasses.fields(self.obj) if dataclasses.is_dataclass(self.obj) else ()
        names: tuple[str, ...] = getattr(self.obj, "_fields", tuple(field.name for field in own))
        return tuple(name for name in names if not name.startswith("_"))

    @property
    def signature_parameters(self) -> tuple[str, ...]:
        return self._fields() or tuple(super().signature_parameters)

    def _doc_parameters(self, sections: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = super()._doc_parameters(sections)
        return found or (super()._doc_parameters(["Attributes"]) if self._fields() else found)


def faults(public: Any) -> list[str]:
    """Return the rules that a docstring breaks, each with its message."""
    found = validate("", validator_cls=lambda obj_name: Rules(get_doc_object(public)))["errors"]
    text = inspect.getdoc(public) or ""
    assert "%(" not in text  # a placeholder that no decorator has filled
    return [f"{code} {message}" for code, message in found if code not in STYLE]


def modules() -> list[str]:
    """Return the names of all public modules: those without an underscore that define public names."""
    home = str(Path(fastiter.__file__).parent)  # in an editable install, __path__ includes the repository
    names = ["fastiter", *(each.name for each in pkgutil.walk_packages([home], "fastiter."))]
    return [name for name in names if "._" not in name and not name.startswith("fastiter.kernels")]


def test_public_names_are_documented() -> None:
    torch = pytest.importorskip("torch")
    seen, broken = set(), {}
    for name in modules():
        module = importlib.import_module(name)
        for each in getattr(module, "__all__", ()):
            public = getattr(module, each)
            if callable(public) and id(public) not in seen:
                seen.add(id(public))
                found = faults(public)
                if found:
                    broken[f"{name}.{each}"] = found
    assert broken == {}
    assert torch.__name__ and len(seen) > 230


#: Names of functions that raise for arguments that are not as documented
CHECKS = re.compile(r"_?(check|checked|refuse)(_\w+)?$|(as_array|as_arrays|count|positive)$")


def raises(function: Any) -> bool:
    """Return whether a function's own body has a raise statement or calls a check of arguments."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError):  # a class without a method of its own, or made by exec
        return False
    called = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    names = (func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in called)
    return any(isinstance(node, ast.Raise) for node in ast.walk(tree)) or any(map(CHECKS.match, names))


def makers(cls: type) -> list[Any]:
    """Return the methods of a class and its bases in the library that make an instance."""
    own = [vars(base) for base in cls.__mro__ if base.__module__.startswith("fastiter")]
    return [names[each] for names in own for each in ("__init__", "__post_init__") if each in names]


def test_what_public_functions_and_classes_raise_is_documented() -> None:
    """Those whose own body raises, or calls a check, have a section Raises."""
    pytest.importorskip("torch")
    raising, silent = set(), set()
    for name in modules():
        module = importlib.import_module(name)
        for each in getattr(module, "__all__", ()):
            public = getattr(module, each)
            if not callable(public) or (isinstance(public, type) and issubclass(public, BaseException)):
                continue
            if any(map(raises, makers(public) if isinstance(public, type) else [public])):
                raising.add(public)
                if not re.search(r"^Raises\n-{6}\n", inspect.getdoc(public) or "", flags=re.MULTILINE):
                    silent.add(f"{name}.{each}")
    assert silent == set()
    assert len(raising) > 190


@pytest.mark.parametrize(
    ("source", "expected"), [("return 1", False), ("raise ValueError", True), ("check_flag('f', 'x', x)", True)]
)
def test_functions_that_raise_are_found(source: str, expected: bool, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(f"def f(x):\n    {source}\n")
    names: dict[str, Any] = {}
    exec(compile(path.read_text(), path, "exec"), names)
    assert raises(names["f"]) is expected


def _own_methods(cls: type) -> dict[str, Any]:
    """Return the public methods and properties of a class that the library defines, including those of its bases."""
    found = {}
    for name in (name for name in dir(cls) if not name.startswith("_") and name != "extra_repr"):  # torch prints it
        raw, value = inspect.getattr_static(cls, name), getattr(cls, name)
        function = inspect.unwrap(raw.fget if isinstance(raw, property) else getattr(value, "__func__", value))
        if callable(function) and str(getattr(function, "__module__", "")).startswith("fastiter"):
            found[name] = value
    return found


def test_methods_of_public_classes_are_documented() -> None:
    """All arguments (with types) and results are documented; examples and references are those of the class."""
    pytest.importorskip("torch")
    classes = {
        public
        for module in map(importlib.import_module, modules())
        for public in (getattr(module, name) for name in getattr(module, "__all__", ()))
        if isinstance(public, type)
    }
    seen, broken = 0, {}
    for cls in classes:
        for name, method in _own_methods(cls).items():
            seen += 1
            rules = [] if isinstance(method, property) else faults(method)
            found = [rule for rule in rules if rule[:2] in ("PR", "RT")]
            if not inspect.getdoc(method) or found:
                broken[f"{cls.__name__}.{name}"] = found
    assert broken == {}
    assert seen > 250
