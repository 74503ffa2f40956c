"""The text of an exported network: types, constants, a C++ function for each step, the testbench, a description."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ... import Fixed
from .bodies import BODIES
from .formats import Constant, Step, Value
from .graph import Network

_HEADER = "// Written by fastiter.torch.quant.export_hls.\n"
_TESTBENCH = """
// Runs the network on codes, a sample a line, and compares with the codes that it should return.
//
//     g++ -std=c++14 -O2 model.cpp testbench.cpp -o testbench && ./testbench inputs.txt expected.txt
//
// With one file it writes the codes that the network returns.
#include "model.hpp"

#include <cstdio>
#include <fstream>

static network_input_t x[INPUTS];
static network_output_t y[OUTPUTS];

int main(int count, char** arguments) {
    std::ifstream inputs(count > 1 ? arguments[1] : "inputs.txt");
    const bool compares = count != 2;
    std::ifstream expected;
    if (compares) expected.open(count > 2 ? arguments[2] : "expected.txt");
    long samples = 0, different = 0;
    for (long long code; inputs >> code; ++samples) {
        x[0] = from_code<network_input_t>(code);
        for (int i = 1; i < INPUTS; ++i) {
            if (!(inputs >> code)) return std::fprintf(stderr, "a sample has too few codes\\n"), 2;
            x[i] = from_code<network_input_t>(code);
        }
        network(x, y);
        for (int i = 0; i < OUTPUTS; ++i) {
            if (!compares) {
                std::printf("%lld%c", static_cast<long long>(code_of(y[i])), i + 1 < OUTPUTS ? ' ' : '\\n');
            } else {
                if (!(expected >> code)) return std::fprintf(stderr, "too few codes are expected\\n"), 2;
                different += code_of(y[i]) != code;
            }
        }
    }
    if (compares) std::printf("%ld samples, %ld codes differ\\n", samples, different);
    return different != 0 || samples == 0;
}
"""


def write(network: Network, description: dict[str, Any], directory: Path) -> None:
    """Write all files."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "fixed.hpp").write_text(Path(__file__).with_name("fixed.hpp").read_text())
    (directory / "parameters.hpp").write_text(_parameters(network))
    (directory / "model.hpp").write_text(_interface(network))
    (directory / "model.cpp").write_text(_model(network))
    (directory / "testbench.cpp").write_text(_HEADER + _TESTBENCH.lstrip("\n"))
    (directory / "model.json").write_text(json.dumps(description, indent=2) + "\n")
    _write_codes(directory / "inputs.txt", network.example, network.input)
    _write_codes(directory / "expected.txt", network.result, network.output)


def _write_codes(path: Path, x: Tensor, value: Value) -> None:
    codes = np.ldexp(x.detach().double().flatten(1).numpy(), value.fmt.fraction)
    np.savetxt(path, codes.astype(np.int64), "%d")


def ap_fixed(fmt: Fixed) -> str:
    """Return the C++ type of a format."""
    fields = [str(fmt.width), str(fmt.integer), f"AP_{fmt.rounding}", f"AP_{fmt.overflow}", str(fmt.saturated_bits)]
    for usual in ("0", "AP_WRAP", "AP_TRN"):
        if fields[-1] != usual:
            break
        fields.pop()
    return f"ap_{'' if fmt.signed else 'u'}fixed<{', '.join(fields)}>"


def _parameters(network: Network) -> str:
    lines = [
        _HEADER + "// Types, and weights as integers: each is its code times the last place of its type.",
        "#pragma once",
    ]
    lines += ['#include "fixed.hpp"', "", f"typedef {ap_fixed(network.input.fmt)} network_input_t;"]
    for step in network.steps:
        lines.append(f"typedef {ap_fixed(step.output.fmt)} {step.name}_t;")
        if step.total is not None:
            lines.append(f"typedef {ap_fixed(step.total)} {step.name}_sum_t;")
    lines += [f"typedef {network.output.name}_t network_output_t;", ""]
    for constant in _constants(network):
        lines += [f"typedef {ap_fixed(constant.fmt)} {constant.name}_t;", *_array(constant), ""]
    return "\n".join(lines).rstrip() + "\n"


def _constants(network: Network) -> list[Constant]:
    return list({constant.name: constant for step in network.steps for constant in step.constants.values()}.values())


def _array(constant: Constant) -> Iterable[str]:
    codes = constant.codes.flatten()
    lowest, highest = int(codes.min(initial=0)), int(codes.max(initial=0))
    types = (("signed char", 8), ("short", 16), ("int", 32), ("long long", 64))
    name = next(name for name, bits in types if -(1 << (bits - 1)) <= lowest and highest < 1 << (bits - 1))
    yield f"static const {name} {constant.name}[{codes.size}] = {{"
    line = "   "
    for code in codes.tolist():
        if len(line) + len(str(code)) > 117:
            yield line
            line = "   "
        line += f" {code},"
    yield line
    yield "};"


def _interface(network: Network) -> str:
    return (
        f'{_HEADER}#pragma once\n#include "parameters.hpp"\n\n'
        f"enum {{ INPUTS = {_count(network.input)}, OUTPUTS = {_count(network.output)} }};\n\n"
        "void network(const network_input_t x[INPUTS], network_output_t y[OUTPUTS]);\n"
    )


def _count(value: Value) -> int:
    return int(np.prod(value.shape, dtype=np.int64))


def _model(network: Network) -> str:
    parts = [_HEADER + '#include "model.hpp"\n']
    arrays, calls = [], []
    for step in network.steps:
        names = ["x"] if len(step.inputs) == 1 else ["a", "b"]
        types = [
            f"const {value.name}_t {name}[{_count(value)}]" for value, name in zip(step.inputs, names, strict=True)
        ]
        head = f"static void {step.name}({', '.join(types)}, {step.name}_t y[{_count(step.output)}]) {{"
        body = "\n".join("    " * bool(line) + line for line in BODIES[step.kind](step))
        parts.append(f"// {step.layer}: {step.kind}\n{head}\n{body}\n}}\n")
        arrays.append(f"    static {step.name}_t {step.name}_y[{_count(step.output)}];")
        arguments = ["x" if value.name == network.input.name else f"{value.name}_y" for value in step.inputs]
        calls.append(f"    {step.name}({', '.join(arguments)}, {step.name}_y);")
    last = f"    for (int i = 0; i < OUTPUTS; ++i) y[i] = {network.output.name}_y[i];"
    head = "void network(const network_input_t x[INPUTS], network_output_t y[OUTPUTS]) {"
    parts.append("\n".join([head, *arrays, "", *calls, last, "}", ""]))
    return "\n".join(parts)


def describe(network: Network) -> dict[str, Any]:
    """Return the content of model.json."""

    def array(value: Value) -> dict[str, Any]:
        return {"name": value.name, "format": str(value.fmt), "shape": list(value.shape)}

    def step(of: Step) -> dict[str, Any]:
        text: dict[str, Any] = {"layer": of.layer, "kind": of.kind, "inputs": [value.name for value in of.inputs]}
        text |= {"output": array(of.output)}
        text |= {
            what: {"name": constant.name, "format": str(constant.fmt), "shape": list(constant.codes.shape)}
            for what, constant in of.constants.items()
        }
        if of.total is not None:
            text |= {"sum": str(of.total)} | ({"every": of.every} if of.every > 1 else {})
        return text | of.sizes

    return {
        "input": array(network.input),
        "output": array(network.output),
        "steps": [step(each) for each in network.steps],
    }
