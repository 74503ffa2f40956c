"""Makes ``import mamba_ssm`` and similar imports find fastiter's functions, for code that imports these libraries."""

from __future__ import annotations

import sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

from ...._check import check_flag, type_name
from .packages import PACKAGES

#: The original modules of each replaced library in sys.modules, by the library's name
_hidden: dict[str, dict[str, Any]] = {}


class _Module(ModuleType):
    """A module that replaces one of another library and has fastiter's functions."""

    def __getattr__(self, name: str) -> Any:
        text = f"module {self.__name__!r} is fastiter's, which does not have {name!r}"
        if not name.startswith("__"):
            text += f"; it has {', '.join(sorted(n for n in vars(self) if not n.startswith('_')))}"
        raise AttributeError(text, name=name, obj=self)


class _Loader(Loader):
    """Populates a module of a library."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        package, _, path = module.__name__.partition(".")
        stand_ins = PACKAGES[package]
        vars(module).update(stand_ins.modules.get(path, {}))
        module.__doc__ = f"fastiter's functions under the name {module.__name__}."
        if not path:
            vars(module)["__version__"] = f"{stand_ins.version}+fastiter"


def install(*names: str, force: bool = False) -> tuple[str, ...]:
    """Make ``import mamba_ssm``, ``causal_conv1d``, ``fla`` or ``mlstm_kernels`` find fastiter's functions.

    This changes ``sys.modules`` for the whole process: code that imports these libraries afterwards gets the functions
    that :mod:`fastiter.torch.compat` has, and an ImportError or AttributeError for the rest.

    Parameters
    ----------
    *names : str
        The libraries; by default those among the four that are not installed.
    force : bool
        Also replace a library that is installed. Otherwise its name is refused.

    Returns
    -------
    tuple of str
        The names that this call has redirected to fastiter.

    Raises
    ------
    ValueError
        For the name of another library, or of one that is installed unless ``force`` is True.

    See Also
    --------
    uninstall : Undoes the replacement.
    fastiter.torch.accelerate : Changes only one model.

    Examples
    --------
    >>> import fastiter.torch
    >>> fastiter.torch.compat.install("causal_conv1d", force=True)
    ('causal_conv1d',)
    >>> from causal_conv1d import causal_conv1d_fn
    >>> causal_conv1d_fn is fastiter.torch.compat.causal_conv1d.causal_conv1d_fn
    True
    >>> fastiter.torch.compat.uninstall()
    ('causal_conv1d',)
    """
    check_flag("install", "force", force)
    _check_names("install", names)
    for name in names:
        if not force and name not in _hidden and _is_installed(name):
            raise ValueError(f"install: {name} must not be installed unless force=True hides it, got an installed one")
    chosen = names or tuple(name for name in PACKAGES if force or not _is_installed(name))
    new = tuple(name for name in dict.fromkeys(chosen) if name not in _hidden)
    for name in new:
        _hidden[name] = _taken(name)
        _put(name)
    return new


def uninstall(*names: str) -> tuple[str, ...]:
    """Undo :func:`install` for these libraries, by default for all; return those that were replaced.

    The original modules are restored to ``sys.modules``. Code that has already imported a function keeps it.

    Parameters
    ----------
    *names : str
        The libraries; by default all.

    Returns
    -------
    tuple of str
        The names of the libraries that were replaced.

    Raises
    ------
    ValueError
        For the name of another library.

    See Also
    --------
    install : The function that this one undoes.

    Examples
    --------
    >>> import fastiter.torch
    >>> fastiter.torch.compat.install("causal_conv1d", force=True)
    ('causal_conv1d',)
    >>> fastiter.torch.compat.uninstall()
    ('causal_conv1d',)
    """
    _check_names("uninstall", names)
    result = tuple(name for name in names or tuple(_hidden) if name in _hidden)
    for name in result:
        _taken(name)
        sys.modules.update(_hidden.pop(name))
    return result


def _check_names(function: str, names: tuple[Any, ...]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{function}: names must be str, got {type_name(name)}")
        if name not in PACKAGES:
            raise ValueError(f"{function}: names must be among {', '.join(map(repr, PACKAGES))}, got {name!r}")


def _is_installed(name: str) -> bool:
    """Return whether the library itself is installed, disregarding its replacement."""
    if name in _hidden:
        return False
    try:
        return find_spec(name) is not None
    except ValueError:  # a module without a spec, set by other code
        return True


def _taken(name: str) -> dict[str, Any]:
    """Remove the modules of a library from sys.modules, and return them."""
    return {path: sys.modules.pop(path) for path in list(sys.modules) if path == name or path.startswith(name + ".")}


def _put(name: str) -> None:
    """Add a library's modules to sys.modules, including the intermediate packages."""
    loader = _Loader()
    for path in ["", *PACKAGES[name].modules]:
        parts = [name, *filter(None, path.split("."))]
        for end in range(1, len(parts) + 1):
            full = ".".join(parts[:end])
            if full in sys.modules:
                continue
            spec = ModuleSpec(full, loader, origin="fastiter", is_package=True)
            module = sys.modules[full] = module_from_spec(spec)
            loader.exec_module(module)
            if end > 1:
                setattr(sys.modules[".".join(parts[: end - 1])], parts[end - 1], module)
