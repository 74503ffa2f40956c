"""Decoders from the files of a model, matrix by matrix, so that its weights are never in memory as a whole."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..._check import check_flag, count
from .._checkpoint import Checkpoint, Stored
from .._layouts import Codes
from .._pack import PackedMatrix
from .._quantized import KEYS, codes_of
from ..plan import Matrix, Plan
from .decoder import Decoder
from .plans import plan_of
from .weights import Choice, FormatLike, Weights, choose, pack_matrix

__all__ = ["load"]

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def load(
    path: str | Path,
    *,
    weights: Weights = None,
    head: FormatLike = None,
    group: int | None = None,
    threads: int | None = None,
    trial: bool = True,
) -> Decoder:
    """Read a model from files into a :class:`Decoder`, with the memory of its packed weights and one matrix.

    Parameters
    ----------
    path : str or Path
        A folder with ``config.json`` and the weights in the format safetensors, in one file or in several with an
        index, as ``save_pretrained`` of transformers writes it. Weights that are already quantized, by GPTQ or AWQ or
        as compressed-tensors' integers, MXFP4 or NVFP4, keep their codes and scales, without a second rounding.
    weights : str, Format or mapping, optional
        As for :class:`Decoder`, as are the others; they do not apply to weights that are already quantized.
    head : str or Format, optional
        The format of the head alone.
    group : int, optional
        Inputs that share a scale.
    threads : int, optional
        Threads of a step.
    trial : bool
        Compare three steps with those of the model.

    Returns
    -------
    decoder : Decoder
        Reads prompts, too, from the packed weights.

    Raises
    ------
    FileNotFoundError
        If the folder lacks its config or its weights.
    TypeError, ValueError
        As for :class:`Decoder`; for tensors that are missing, have another shape or another layout, with their names.

    See Also
    --------
    Decoder : From a model in memory.

    Examples
    --------
    >>> import tempfile, torch, transformers
    >>> from fastiter.torch import decode
    >>> config = transformers.MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     transformers.MambaForCausalLM(config).save_pretrained(folder)
    ...     decoder = decode.load(folder, weights="int8")
    >>> decoder.step(torch.tensor([3])).shape
    torch.Size([1, 50])
    """
    check_flag("load", "trial", trial)
    decoder = object.__new__(Decoder)
    decoder._threads = 0 if threads is None else count("load", "threads", threads, 1, 256)
    decoder._build(*_read(path, weights, head, group), trial)
    return decoder


def _read(
    path: str | Path, weights: Weights, head: FormatLike, group: int | None
) -> tuple[Any, Plan, dict[Matrix, PackedMatrix]]:
    """Return a model whose matrices have no memory, its plan, and the packed matrices; the files are closed again."""
    model = _skeleton(path)
    files = Files(path, model)
    _fill(model, files)
    plan = plan_of(model)
    files.tie(model)
    parameters = {name: files.like(name, x) for name, x in model.named_parameters()}
    chosen = choose(plan, parameters, weights, head, group)
    files.check(model)
    return model, plan, {matrix: files.pack(matrix, choice) for matrix, choice in chosen.items()}


class Files:
    """The tensors of a checkpoint by the names that a model has for them."""

    def __init__(self, path: str | Path, model: Any) -> None:
        self.stored = Checkpoint(path)
        self.quantization: Mapping[str, Any] = self.stored.config.get("quantization_config") or {}
        self.names = Names(model, self.stored)
        self._used: set[str] = set()
        self._codes: tuple[str, Codes] | None = None
        self._converted: tuple[str, Tensor] | None = None

    def tensor(self, name: str) -> Tensor:
        """Return a tensor that has to be there, in the type in which it is stored."""
        if self._converted is not None and self._converted[0] == name:
            return self._converted[1]
        if name in self.names.same:
            self._used.add(self.names.same[name])
            return _tensor_of(self.stored[self.names.same[name]])
        sources = self.names.sources(name)
        if not sources:
            raise ValueError(f"load: the files must have a tensor {name}, got none")
        self._used.update(sources)
        self._converted = None  # one parameter at a time
        converted = self.names.convert(name, {key: _tensor_of(self.stored[key]) for key in sources})
        self._converted = name, converted
        return converted

    def tie(self, model: nn.Module) -> None:
        """Let the first name of tied parameters stand for that by which the files have them."""
        for first, *others in _names_of(model).values():
            stored = self.stored_among([first, *others])
            if stored != first and stored in self.names.same:
                self.names.same[first] = self.names.same[stored]

    def stored_among(self, names: Sequence[str]) -> str:
        """Return the name, of those that tied parameters have, by which the files have them; the first if none."""
        return next((name for name in names if self._has(name)), names[0])

    def like(self, name: str, x: Tensor) -> Tensor:
        """Return a tensor without memory, of the type in which a parameter is stored, after a check of its shape."""
        if not self._has(name) and self.codes(name) is not None:
            return torch.empty(x.shape, dtype=torch.float32, device="meta")
        stored = self.tensor(name)
        _check_shape(name, stored, x)
        if stored.dtype not in _FLOATS:
            raise ValueError(f"load: {name} must be stored as floats of 16, 32 or 64 bits, got {stored.dtype}")
        return torch.empty(x.shape, dtype=stored.dtype, device="meta")

    def codes(self, name: str) -> Codes | None:
        """Return the codes of a quantized weight, None if it is stored as numbers."""
        if not self.quantization:
            return None
        if self._codes is None or self._codes[0] != name:
            module = name.removesuffix(".weight")
            found = {key: self.names.same.get(f"{module}.{key}") for key in KEYS}
            tensors = {key: self.stored[of] for key, of in found.items() if of is not None}
            if not tensors:
                return None
            self._used |= {of for of in found.values() if of is not None}
            self._codes = None  # one matrix at a time
            self._codes = name, codes_of(module, tensors, self.quantization)
        return self._codes[1]

    def pack(self, matrix: Matrix, choice: Choice) -> PackedMatrix:
        """Return a packed matrix."""
        codes = None if self._has(matrix.name) else self.codes(matrix.name)
        if codes is not None:
            rows = matrix.places()
            return codes._replace(codes=codes.codes[rows], scales=codes.scales[rows]).pack()
        return pack_matrix(matrix, self.tensor(matrix.name), choice)

    def check(self, model: Any) -> None:
        """Refuse files with tensors that neither the model has nor its class ignores."""
        ignored = [re.compile(x) for x in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
        tied = set(getattr(model, "_tied_weights_keys", None) or ())
        for name, key in self.names.same.items():
            if key not in self._used and name not in tied and not any(x.search(key) for x in ignored):
                raise ValueError(f"load: the files must have tensors of a {type(model).__name__}, got {key} too")

    def _has(self, name: str) -> bool:
        return name in self.names.same or bool(self.names.sources(name))


class Names:
    """Names and layouts of a checkpoint's tensors in terms of a model, by transformers' own rules.

    ``same`` has the stored names of tensors that only differ by their names, by the names in the model.
    """

    def __init__(self, model: Any, stored: Mapping[str, Any]) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, rename_source_key

        rules = get_model_conversion_mapping(model)
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        renamings = [rule for rule in rules if not isinstance(rule, WeightConverter)]
        self.model, self.same = model, dict[str, str]()
        self._groups: dict[str, tuple[Any, list[tuple[str, str]]]] = {}
        known = model.state_dict()
        for key in sorted(stored, key=_natural):
            name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, known)
            if pattern is None:
                self.same[name] = key
                continue
            converter = next(each for each in converters if pattern in each.source_patterns)
            self._groups.setdefault(name, (converter, []))[1].append((pattern, key))

    def sources(self, name: str) -> list[str]:
        """Return the stored names of the tensors from which a parameter is converted."""
        group = self._group_of(name)
        return [] if group is None else [key for _, key in self._groups[group][1]]

    def convert(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return a parameter, converted from the tensors of its sources."""
        group = self._group_of(name)
        assert group is not None
        converter, entries = self._groups[group]
        rule = converter.copy(list(converter.source_patterns), list(converter.target_patterns),
                              operations=converter.operations)  # fmt: skip
        for pattern, key in entries:
            rule.add_tensor(group, key, pattern, lambda key=key: tensors[key])
        found = rule.convert(group, model=self.model, config=self.model.config)[name]
        result: Tensor = found[0] if isinstance(found, list) else found
        return result

    def _group_of(self, name: str) -> str | None:
        """Return the key of the group of tensors that a parameter is converted from."""
        if name in self._groups:
            return name
        for group, (converter, _) in self._groups.items():
            first, *others = converter.target_patterns
            if any(group.replace(first, other) == name for other in others):
                return group
        return None


def _natural(key: str) -> list[Any]:
    """Sort numbers within names as numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)]


def _tensor_of(stored: Stored) -> Tensor:
    """Return a tensor on the memory of the file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        bits = torch.from_numpy(stored.array)
    return bits.view(torch.bfloat16) if stored.type == "BF16" else bits


class _WithoutMemory(TorchFunctionMode):
    """Gives new tensors that are to be filled with weights no memory."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {**(kwargs or {}), "device": "meta"} if function is torch.empty else kwargs or {}
        return function(*args, **kwargs)


def _skeleton(path: str | Path) -> Any:
    """Return a model whose matrices have no memory."""
    import transformers

    if not (Path(path) / "config.json").is_file():
        raise FileNotFoundError(f"load: path must be a folder with config.json, got {path}")
    names = json.loads((Path(path) / "config.json").read_text()).get("architectures") or ["none"]
    kind = getattr(transformers, names[0], None)
    if kind is None:
        raise TypeError(f"load: the config must name an architecture of transformers, got {names[0]}")
    config = kind.config_class.from_pretrained(path)  # other packages may register their own for AutoConfig
    with _WithoutMemory():
        return kind(config).eval()


def _fill(model: nn.Module, files: Files) -> None:
    """Read everything but the matrices of linear layers, embeddings and experts into a model."""
    shared: dict[int, nn.Parameter] = {}
    names = _names_of(model)
    for prefix, module in model.named_modules():
        start = f"{prefix}." if prefix else ""
        for name, x in list(module._parameters.items()):
            if x is None or _is_matrix(module, x):
                continue
            if id(x) not in shared:
                own = files.tensor(files.stored_among(names[id(x)]))
                _check_shape(start + name, own, x)
                shared[id(x)] = nn.Parameter(own.clone(), requires_grad=False)
            module._parameters[name] = shared[id(x)]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and name not in module._non_persistent_buffers_set:
                module._buffers[name] = files.tensor(start + name).clone()


def _names_of(model: nn.Module) -> dict[int, list[str]]:
    """Return the names of each parameter, several of tied ones, by the parameter's id."""
    names: dict[int, list[str]] = {}
    for name, x in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(x), []).append(name)
    return names


def _is_matrix(module: nn.Module, x: Tensor) -> bool:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        return x.dim() == 2
    return x.dim() == 3 and not isinstance(module, nn.Conv1d)


def _check_shape(name: str, own: Tensor, expected: Tensor) -> None:
    if own.shape != expected.shape:
        raise ValueError(f"load: {name} must have shape {tuple(expected.shape)}, got {tuple(own.shape)}")
