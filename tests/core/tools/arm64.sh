#!/usr/bin/env bash
# tests/core/tools/arm64.sh DIR [arguments of pytest]: the NumPy tests on an emulated ARM64 processor, on a Debian system with
# g++-aarch64-linux-gnu, mmdebstrap and qemu-user. DIR receives an interpreter with its packages, and can be reused.
#
# The interpreter and its pip run under the emulator, so that it finds ARM64 headers and names the module for it. CMake,
# Ninja and the compiler, which pip starts, are native programs.
set -euo pipefail
debian=$(realpath -m "$1")/debian venv=$(realpath -m "$1")/venv
shift
cd "$(dirname "$0")/../../.."
make .venv/.tools
PATH=$PWD/.venv/bin:$PATH

if [[ ! -e $venv/pyvenv.cfg ]]; then
    mkdir -p "$venv/bin"
    mmdebstrap --arch=arm64 --variant=extract --include=python3.13,libpython3.13-dev,libstdc++6 trixie "$debian"
    ln -s usr/lib "$debian/lib"                                       # where the loader is expected
    ln -s ../aarch64-linux-gnu "$debian/usr/include/python3.13/"      # included by pyconfig.h
    # The script's path as the program's name: the interpreter finds its packages by it, and starts others like itself.
    # The processor is the oldest of ARMv8, so that no instruction beyond the baseline passes, and it is emulated in half
    # the time, since it has no pointer authentication.
    printf '#!/bin/sh\nexec qemu-aarch64 -cpu cortex-a72 -L "%s" -0 "$0" "%s" "$@"\n' "$debian" "$debian/usr/bin/python3.13" >"$venv/bin/python"
    chmod +x "$venv/bin/python"
    .venv/bin/python -m pip install --target "$venv/lib/python3.13/site-packages" --python-version 3.13 --abi cp313 \
        --only-binary=:all: --platform=manylinux{2014,_2_27,_2_28}_aarch64 \
        numpy scipy ml_dtypes sybil 'pytest>=8.4' pytest-xdist pip pybind11 scikit-build-core
    printf 'home = %s\n' "$debian/usr/bin" >"$venv/pyvenv.cfg"
fi

CXX=aarch64-linux-gnu-g++ SKBUILD_CMAKE_DEFINE="FASTITER_LEVELS=baseline;FASTITER_WERROR=ON" \
    "$venv/bin/python" -m pip install -v --no-build-isolation --no-deps -e .
"$venv/bin/python" -m pytest "${@:-tests}"
