"""A model as the source of a plan: each module and parameter that a plan uses is checked and recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from ...plan import Activation, Matrix, Vector

#: Activations by the classes that transformers has for them
_BY_CLASS: dict[str, Activation] = {
    "SiLUActivation": "silu",
    "SiLU": "silu",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "ReLU": "relu",
    "ReLUSquaredActivation": "relu2",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}
#: Activations by the names that configs have for them
_BY_NAME: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}

#: Packages whose classes are known by their names; transformers takes classes from the last two
_PACKAGES = ("torch.nn.modules.", "transformers.", "xlstm.", "mlstm_kernels.")


class Source:
    """A model, of which a plan has to use every module, parameter and persistent buffer."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.kind = type(model).__name__
        self.names = {id(x): name for name, x in model.named_parameters()}  # tied ones have one name
        self._modules: set[int] = set()
        self._tensors: set[int] = set()

    def root(self) -> Part:
        """Return the model itself."""
        self.use(self.model, "", (self.kind,))
        return Part(self, "", self.model)

    def use(self, module: Any, name: str, classes: tuple[str, ...]) -> None:
        """Record that a plan knows how a module computes, after a check of its class."""
        of = type(module)
        if of.__module__.split(".")[0] == "peft":
            raise TypeError(
                f"Decoder: {name} must be without adapters (merge_and_unload() returns such a model), got {_named(of)}"
            )
        if of.__name__ not in classes or not of.__module__.startswith(_PACKAGES):
            raise TypeError(f"Decoder: {name} must be a {' or '.join(classes)} in {self.kind}, got {_named(of)}")
        own = vars(module).get("forward")
        if own is not None and getattr(own, "__func__", None) is not of.forward:
            raise TypeError(f"Decoder: {name or self.kind} must have the forward of its class, got {own!r}")
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        if any(getattr(hook, "__module__", None) != "transformers.utils.output_capturing" for hook in hooks):
            raise TypeError(f"Decoder: {name or self.kind} must be without forward hooks, which would not run")
        self._modules.add(id(module))

    def tensor(self, x: Tensor) -> Tensor:
        """Record that a plan uses a parameter or buffer, and return it."""
        self._tensors.add(id(x))
        return x

    def check(self) -> None:
        """Refuse a model of which the plan has left a module, a parameter or a persistent buffer unused."""
        for name, module in self.model.named_modules():
            if id(module) not in self._modules:
                raise TypeError(f"Decoder: {self.kind} must have no module {name}, got {_named(type(module))}")
            tensors = {**module._parameters, **module._buffers}
            for key, x in tensors.items():
                if x is not None and key not in module._non_persistent_buffers_set and id(x) not in self._tensors:
                    raise TypeError(
                        f"Decoder: {_named(type(module))} must have no {key}, got one in {name or self.kind}"
                    )


class Part:
    """A module within a model, by its name."""

    def __init__(self, source: Source, name: str, module: Any) -> None:
        self.source, self.name, self.module = source, name, module

    def path(self, name: str) -> str:
        """Return the name within the model of something in this module."""
        return f"{self.name}.{name}" if self.name else name

    def has(self, name: str) -> bool:
        """Return whether the module has a submodule or tensor of this name that is not None."""
        return getattr(self.module, name, None) is not None

    def child(self, name: str, *classes: str) -> Part:
        """Return a submodule, which must be of one of the classes, by name."""
        module = getattr(self.module, name, None)
        if not isinstance(module, nn.Module):
            raise TypeError(f"Decoder: {self.name or self.source.kind} must have a module {name}, got none")
        self.source.use(module, self.path(name), classes)
        return Part(self.source, self.path(name), module)

    def children(self, name: str, *classes: str) -> list[Part]:
        """Return the entries of a list of modules, each of one of the classes."""
        parent = self.child(name, "ModuleList")
        return [parent.child(str(i), *classes) for i in range(len(parent.module))]

    def ignore(self, name: str, *classes: str) -> None:
        """Accept a submodule without effect in eval mode, or none."""
        if self.has(name):
            self.child(name, *classes)

    def vector(self, name: str) -> Vector:
        """Return a parameter or buffer as float64."""
        return np.array(self._tensor(name).detach().cpu().double().numpy())

    def optional(self, name: str) -> Vector | None:
        """Return a parameter or buffer as float64, None if the module has none."""
        return self.vector(name) if self.has(name) else None

    def matrix(self, name: str = "weight") -> Matrix:
        """Return a parameter as a matrix: its last axis has the columns, the others have the rows."""
        x = self._tensor(name)
        return Matrix(self.source.names[id(x)], x.numel() // x.shape[-1], x.shape[-1])

    def _tensor(self, name: str) -> Tensor:
        x: Any = getattr(self.module, name, None)
        if type(x) not in (Tensor, nn.Parameter) or not x.is_floating_point():
            got = (
                "none"
                if x is None
                else f"{x.dtype} in a {_named(type(x))}"
                if isinstance(x, Tensor)
                else _named(type(x))
            )
            raise TypeError(f"Decoder: {self.path(name)} must be a tensor of floating-point numbers, got {got}")
        return self.source.tensor(x)

    def linear(self, name: str) -> tuple[Matrix, Vector | None]:
        """Return the matrix and the bias of a linear layer."""
        layer = self.child(name, "Linear")
        return layer.matrix(), layer.optional("bias")

    def activation(self, name: str) -> Activation:
        """Return the name of an activation that is a module."""
        return _BY_CLASS[type(self.child(name, *_BY_CLASS).module).__name__]

    def require(self, name: str, value: Any, *accepted: Any, why: str = "") -> None:
        """Refuse an option whose value is not among the accepted ones."""
        if value not in accepted:
            listed = " or ".join(map(repr, accepted))
            raise ValueError(f"Decoder: {name} of {self.name or self.source.kind} must be {listed}{why}, got {value!r}")


def activation_named(part: Part, name: Any) -> Activation:
    """Return the activation that an option of a model names."""
    part.require("the activation", name, *_BY_NAME)
    return _BY_NAME[name]


def _named(of: type) -> str:
    return f"{of.__module__}.{of.__qualname__}"
