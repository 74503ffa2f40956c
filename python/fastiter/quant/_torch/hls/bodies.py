"""The C++ of each kind of step: plain loops over arrays in C order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .formats import Step

Lines = list[str]


def _loops(lines: Lines, *counts: tuple[str, int]) -> Lines:
    """Nest lines in loops."""
    for name, count in reversed(counts):
        lines = [f"for (int {name} = 0; {name} < {count}; ++{name}) {{", *("    " + line for line in lines), "}"]
    return lines


def _elements(step: Step, text: str) -> Lines:
    count = int(np.prod(step.output.shape, dtype=np.int64))
    return [f"for (int i = 0; i < {count}; ++i) y[i] = {text};"]


def _cast(step: Step) -> Lines:
    return _elements(step, "x[i]")


def _relu(step: Step) -> Lines:
    kind = f"{step.inputs[0].name}_t"
    return [f"const {kind} zero = from_code<{kind}>(0);", *_elements(step, "x[i] < zero ? zero : x[i]")]


def _add(step: Step) -> Lines:
    return _elements(step, "a[i] + b[i]")


def _constant(step: Step, what: str, index: str) -> str:
    name = step.constants[what].name
    return f"from_code<{name}_t>({name}[{index}])"


def _start(step: Step, index: str) -> Lines:
    """Initialize the sum, with the bias if there is one; a rounded accumulator counts it as the first term."""
    first = _constant(step, "bias", index) if "bias" in step.constants else f"from_code<{step.name}_sum_t>(0)"
    lines = [f"{step.name}_sum_t sum = {first};"]
    if step.every > 1:
        lines.append(f"int terms = {int('bias' in step.constants)};")
    return lines


def _added(step: Step, product: str) -> Lines:
    if step.every == 1:
        return [f"sum += {product};"]
    return [
        f"sum += {product};",
        f"if (++terms == {step.every}) {{",
        f"    sum = {step.name}_t(sum);",
        "    terms = 0;",
        "}",
    ]


def _linear(step: Step) -> Lines:
    features, outputs = step.sizes["features"], step.sizes["outputs"]
    product = f"x[m * {features} + k] * {_constant(step, 'weight', f'n * {features} + k')}"
    inner = _loops(_added(step, product), ("k", features))
    body = [*_start(step, "n"), *inner, f"y[m * {outputs} + n] = sum;"]
    return _loops(body, ("m", step.sizes["rows"]), ("n", outputs))


def _affine(step: Step) -> Lines:
    outer, channels, inner = (step.sizes[name] for name in ("outer", "channels", "inner"))
    product = f"x[i] * {_constant(step, 'weight', 'c')}"
    body = [
        f"const int i = (m * {channels} + c) * {inner} + k;",
        *_start(step, "c"),
        f"sum += {product};",
        "y[i] = sum;",
    ]
    return _loops(body, ("m", outer), ("c", channels), ("k", inner))


def _window(step: Step, body: Lines, channel: str) -> Lines:
    """Loop over the positions of a window; ``inside``: whether one is in the image; i: its index there."""
    s = step.sizes
    inside = [
        f"const int v = p * {s['stride_y']} - {s['padding_y']} + r * {s['dilation_y']};",
        f"const int u = q * {s['stride_x']} - {s['padding_x']} + s * {s['dilation_x']};",
        f"const bool inside = 0 <= v && v < {s['height']} && 0 <= u && u < {s['width']};",
        f"const int i = inside ? ({channel} * {s['height']} + v) * {s['width']} + u : 0;",
        *body,
    ]
    return _loops(inside, ("r", s["kernel_y"]), ("s", s["kernel_x"]))


def _images(step: Step, body: Lines, outputs: int) -> Lines:
    s = step.sizes
    last = f"y[(n * {s['rows']} + p) * {s['columns']} + q]"
    body = [line.replace("y[n,p,q]", last) for line in body]
    return _loops(body, ("n", outputs), ("p", s["rows"]), ("q", s["columns"]))


def _conv2d(step: Step) -> Lines:
    s = step.sizes
    channels, outputs = s["channels"] // s["groups"], s["outputs"] // s["groups"]
    index = f"((n * {channels} + c) * {s['kernel_y']} + r) * {s['kernel_x']} + s"
    zero = f"from_code<{step.inputs[0].name}_t>(0)"
    product = [
        f"const {step.inputs[0].name}_t at = inside ? x[i] : {zero};",
        *_added(step, f"at * {_constant(step, 'weight', index)}"),
    ]
    channel = f"(n / {outputs} * {channels} + c)" if s["groups"] > 1 else "c"
    inner = _loops(_window(step, product, channel), ("c", channels))
    return _images(step, [*_start(step, "n"), *inner, "y[n,p,q] = sum;"], s["outputs"])


def _max_pool(step: Step) -> Lines:
    kind = f"{step.inputs[0].name}_t"
    body = [f"{kind} largest = from_code<{kind}>(0);", "bool any = false;"]
    choose = ["if (inside && (!any || largest < x[i])) largest = x[i];", "any = any || inside;"]
    body += [*_window(step, choose, "n"), "y[n,p,q] = largest;"]
    return _images(step, body, step.sizes["channels"])


def _average(step: Step) -> Lines:
    shift = step.sizes["shift"]
    body = [f"{step.name}_sum_t sum = from_code<{step.name}_sum_t>(0);"]
    body += _window(step, ["if (inside) sum += x[i];"], "n")
    # Divides by a power of two as a product with a one-bit number, which is exact
    body.append(f"y[n,p,q] = sum * from_code<ap_ufixed<1, {1 - shift}>>(1);")
    return _images(step, body, step.sizes["channels"])


BODIES: dict[str, Callable[[Step], Lines]] = {
    "cast": _cast,
    "linear": _linear,
    "conv2d": _conv2d,
    "affine": _affine,
    "add": _add,
    "relu": _relu,
    "max_pool": _max_pool,
    "average": _average,
}
