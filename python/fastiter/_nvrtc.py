"""Compiles the CUDA sources that ship with fastiter: NVRTC through ctypes, and a cache of cubins on disk."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from . import kernels
from ._backend import BackendError

SOURCES = Path(kernels.__path__[0])
_OPTIONS = ("--std=c++17", "--fmad=true", "--extra-device-vectorization")


def _libraries() -> Iterator[str]:
    """Yield names and paths of candidate NVRTC libraries: in packages, then on the dynamic loader's search path."""
    spec = importlib.util.find_spec("nvidia")
    for folder in map(Path, [] if spec is None else spec.submodule_search_locations or []):
        for pattern in ("cu*/lib/libnvrtc.so.*", "cuda_nvrtc/lib/libnvrtc.so.*"):
            yield from sorted((str(path) for path in folder.glob(pattern) if "builtins" not in path.name), reverse=True)
    yield from ("libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", "/usr/local/cuda/lib64/libnvrtc.so")


def _load_builtins(library: Path) -> None:
    """Load the libraries that NVRTC opens by name as it compiles: 13.0 does not search its own folder for them."""
    for path in sorted(library.parent.glob("libnvrtc-builtins.so*")) if library.is_absolute() else []:
        ctypes.CDLL(str(path))


@lru_cache(maxsize=1)
def _nvrtc() -> ctypes.CDLL:
    for name in _libraries():
        try:
            _load_builtins(Path(name))
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return library
    raise BackendError(
        "cuda: NVRTC compiles the kernels on first use and was not found (pip install fastiter-kernels[gpu], on Linux)"
    )


def version() -> tuple[int, int]:
    """Return NVRTC's version."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def _call(name: str, *args: object) -> int:
    library = _nvrtc()
    code: int = getattr(library, name)(*args)
    if code and name != "nvrtcCompileProgram":
        raise BackendError(f"cuda: {name} failed: {library.nvrtcGetErrorString(code).decode()}")
    return code


def source_of(stem: str) -> str:
    """Return the text of kernels/<stem>.cu, preceded by common/*.cuh and the headers in its own folder."""
    paths = [*headers_of(stem), SOURCES / f"{stem}.cu"]
    return "\n".join(f'#line 1 "{path.name}"\n{path.read_text()}' for path in paths)


def headers_of(stem: str) -> list[Path]:
    """Return the headers of a source in order: kernels/common/*.cuh, kernels/<family>/*.cuh for <family>/<name>."""
    return [*sorted(SOURCES.glob("common/*.cuh")), *sorted(SOURCES.glob(f"{stem.partition('/')[0]}/*.cuh"))]


def compile_source(source: str, name: str, arch: str, defines: Mapping[str, object] | None = None) -> bytes:
    """Return the cubin of a source for an architecture such as ``"sm_90"``."""
    options = [*_OPTIONS, f"--gpu-architecture={arch}", *(f"-D{key}={value}" for key, value in (defines or {}).items())]
    program = ctypes.c_void_p()
    _call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), f"{name}.cu".encode(), 0, None, None)
    try:
        texts = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        if _call("nvrtcCompileProgram", program, len(options), texts):
            log = _output(program, "ProgramLog").rstrip(b"\0").decode()
            raise BackendError(f"cuda: {name}.cu does not compile for {arch}: {log}")
        return _output(program, "CUBIN")
    finally:
        _call("nvrtcDestroyProgram", ctypes.byref(program))


def _output(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    _call(f"nvrtcGet{what}", program, buffer)
    return buffer.raw


def cache_folder() -> Path:
    """Return the folder of compiled kernels: ``FASTITER_CACHE``, else the user's cache folder."""
    named = os.environ.get("FASTITER_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fastiter"


def cubin(stem: str, arch: str, defines: Mapping[str, object] | None = None) -> Path:
    """Return the path of a family's compiled kernels, compiling them if the cache lacks them.

    The file name contains a hash of the source, the options and the compiler. Several processes may compile the same
    kernels concurrently: each writes its own temporary file and renames it.
    """
    source = source_of(stem)
    content = repr((source, _OPTIONS, sorted((key, str(value)) for key, value in (defines or {}).items()), version()))
    path = cache_folder() / f"{stem.replace('/', '-')}-{arch}-{hashlib.sha256(content.encode()).hexdigest()[:24]}.cubin"
    if path.exists():
        return path
    code = compile_source(source, stem, arch, defines)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "wb") as file:
        file.write(code)
    os.replace(name, path)
    return path
