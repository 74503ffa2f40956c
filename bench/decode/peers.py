"""llama.cpp and torchao, which compute steps of the same models; without their packages they are left out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastiter
from bench.decode import gguf_files
from bench.decode.cases import Entrant, Step, logits_of, shared, start_model, tolerance, with_weights
from bench.harness.peers import load

LLAMA = "llama.cpp"
TORCHAO = "torchao"
_CONTEXT = 4096  # tokens for which a sequence of llama.cpp has memory


def by_llama(model: Any, tokens: Tensor, fmt: str) -> Iterator[Entrant]:
    """Yield llama.cpp with the same weights, in its format of as many bits, by the package llama-cpp-py-sync.

    The package's own library has AVX2 kernels; without it, LLAMA_CPP_LIB names another one. llama.cpp rounds the inputs
    of products to 8 bits for formats of 4 and 8 bits, and to bfloat16 for that; keys and values to float16.
    """
    module, writer = load("llama_cpp_py_sync._cffi_bindings"), load("gguf")
    if module is None or writer is None or fmt not in gguf_files.TYPES:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        rounded = gguf_files.write(model, path, fmt)
        llama = _Llama(module.get_lib(), module.get_ffi(), path, model.config.vocab_size)
        nbytes = path.stat().st_size
    expected = logits_of(start_model(with_weights(model, rounded)), tokens)
    limit = tolerance(model, torch.float16 if fmt == "f32" else torch.bfloat16)
    yield Entrant(f"{LLAMA} {fmt}", llama.start, expected, limit, nbytes)


class _Llama:
    """A model of llama.cpp, and a context with its sequences."""

    def __init__(self, lib: Any, ffi: Any, path: Path, vocabulary: int) -> None:
        self._lib, self._ffi, self._vocabulary, self._context = lib, ffi, vocabulary, None
        self._silent = ffi.callback("void(enum ggml_log_level, const char *, void *)", lambda *_: None)
        lib.llama_log_set(self._silent, ffi.NULL)
        lib.llama_backend_init()
        self._model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        if self._model == ffi.NULL:
            raise RuntimeError(f"llama.cpp cannot read the model {path.name}")

    def start(self, prompt: Tensor) -> Step:
        lib, rows = self._lib, len(prompt)
        if self._context is not None:
            lib.llama_free(self._context)
        settings = lib.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_seq_max = _CONTEXT * rows, 512, rows
        self._context = lib.llama_init_from_model(self._model, settings)
        self._length = 0
        batch = self._ffi.gc(self._ffi.new("llama_batch *", lib.llama_batch_init(rows, 0, 1)), _free(lib))
        for column in prompt.unbind(1):
            self._step(batch, column)
        return lambda tokens: self._step(batch, tokens)

    def _step(self, batch: Any, tokens: Tensor) -> Tensor:
        threads = fastiter.get_num_threads()
        self._lib.llama_set_n_threads(self._context, threads, threads)
        batch.n_tokens = len(tokens)
        for row, token in enumerate(tokens.tolist()):
            batch.token[row], batch.pos[row], batch.n_seq_id[row], batch.logits[row] = token, self._length, 1, 1
            batch.seq_id[row][0] = row
        if self._lib.llama_decode(self._context, batch[0]):
            raise RuntimeError("llama.cpp could not decode a token")
        self._length += 1
        numbers = len(tokens) * self._vocabulary
        found = self._ffi.buffer(self._lib.llama_get_logits(self._context), 4 * numbers)
        return torch.frombuffer(bytearray(found), dtype=torch.float32).view(len(tokens), self._vocabulary)


def _free(lib: Any) -> Any:
    return lambda batch: lib.llama_batch_free(batch[0])


def by_torchao(model: Any, tokens: Tensor, fmt: str) -> Iterator[Entrant]:
    """Yield transformers with torchao's 4 bits for CPUs, with torch's kernel, in layers that can have them.

    Its products are those of linear layers of which 32 inputs share a scale; Mamba multiplies by the weights of dt_proj
    itself.
    """
    quantization, formats = load("torchao.quantization"), load("torchao.prototype.quantization.int4")
    if quantization is None or formats is None or fmt != "int4":
        return
    narrow = shared(model)
    config = formats.PrototypeInt4WeightOnlyConfig(group_size=32, set_inductor_config=False)

    def is_suitable(layer: Any, name: str) -> bool:
        is_linear = isinstance(layer, torch.nn.Linear) and not name.endswith("dt_proj")
        return is_linear and layer.in_features % 32 == 0 and layer.out_features % 32 == 0

    quantization.quantize_(narrow, config, filter_fn=is_suitable)
    numbers, nbytes = {}, 0
    for name, x in narrow.state_dict().items():
        if type(x).__name__ == "Int4OpaqueTensor":
            numbers[name] = torch.nn.functional.linear(torch.eye(x.shape[1]), x).T.contiguous()
            nbytes += x.qdata.nbytes + x.scale_and_zero.nbytes
        else:
            numbers[name] = x
            nbytes += 0 if "embed" in name else x.nbytes
    expected = logits_of(start_model(with_weights(model, numbers)), tokens)
    yield Entrant(f"{TORCHAO} {fmt}", start_model(narrow), expected, tolerance(model, torch.float32), nbytes)
