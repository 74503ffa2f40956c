"""Exported networks, compiled, return the bits of the networks in torch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from fastiter.quant import Fixed, parse  # noqa: E402
from fastiter.quant.reference.formats import fixed_code, fixed_value  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from fastiter.torch.quant import export_hls  # noqa: E402

Q, Plan = ours.FixedQuantizer, ours.QuantPlan
COMPILER = shutil.which("g++") or shutil.which("c++") or "c++"
OPTIONS = [
    "-std=c++14",
    "-O0",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fsanitize=undefined",
    "-fsanitize-undefined-trap-on-error",
]


def built(directory: Path, *sources: str) -> Path:
    command = [COMPILER, *OPTIONS, *sources, "-o", "program"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory / "program"


def numbers(*shape: int, seed: int = 1) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """Network with all kinds of convolutions around a shortcut, and with names that could collide in C++."""

    def __init__(self) -> None:
        super().__init__()
        wrapped = Plan("fixed<5,1,RND,SAT>", "fixed<8,2,RND,SAT>", Q(6), "fixed<7,2,TRN,WRAP,2>")
        self.a = ours.QuantConv2d(2, 4, 3, padding=1, stride=2, plan=wrapped)
        norm = Plan(Q(6), Q(6), output=Q(6, rounding="RND_ZERO", overflow="SAT_SYM"))
        self.a_output = ours.QuantBatchNorm2d(4, plan=norm)
        grouped = Plan(Q(5, axis=0), Q(6, axis=0), output=Q(6, rounding="RND_MIN_INF", overflow="SAT_ZERO"))
        self.a_y = ours.QuantConv2d(4, 4, (3, 2), padding="same", groups=2, dilation=2, plan=grouped)
        self.gradient = ours.GradientQuantizer("e5m2")
        self.a_t = ours.QuantAdd(plan=Plan(input=Q(5), output=Q(6, rounding="TRN_ZERO")))
        self.most, self.mean = nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AdaptiveAvgPool2d(1)
        self.head = ours.QuantLinear(4, 5, plan=Plan(Q(5), Q(6)))

    def forward(self, x: Any) -> Any:
        h = torch.relu(self.a_output(self.a(self.gradient(x))))
        h = self.mean(self.most(self.a_t(self.a_y(h), h)))
        return self.head(torch.flatten(h, 1))


def linear() -> nn.Module:
    plan = Plan(Q(5), Q(6), Q(6), Q(5))
    return nn.Sequential(
        ours.QuantLinear(6, 8, plan=plan),
        nn.ReLU(),
        ours.QuantLinear(8, 7, bias=False, plan=Plan(Q(4, axis=0), output="fixed<9,5,RND_INF,WRAP_SM>")),
        ours.QuantBatchNorm1d(7, momentum=0.5, plan=Plan(Q(6, axis=0), Q(6, axis=0))),
        nn.Dropout(),
        ours.QuantAffine(7, plan=plan),
    )


def accumulators() -> nn.Module:
    each = Plan(Q(5), Q(6), Q(6), accumulator="fixed<8,3,RND_CONV,SAT>")
    fourth = Plan(Q(5), Q(6), Q(6), accumulator="fixed<7,2,RND_INF,WRAP_SM,1>", accumulate_every=4)
    return nn.Sequential(
        ours.QuantConv2d(2, 3, 3, padding=1, plan=each),
        nn.AvgPool2d(2),
        ours.QuantConv2d(3, 4, 2, bias=False, plan=fourth),
        nn.Flatten(),
        ours.QuantLinear(4 * 9, 6, plan=fourth),
        ours.QuantLinear(6, 6, plan=each),
    )


def without_multipliers() -> nn.Module:
    step = ours.LSQQuantizer(5, axis=0, channels=8)
    step._set(torch.tensor([0.125, 0.25] * 4))
    return nn.Sequential(
        ours.QuantLinear(6, 8, plan=Plan(Q(6, terms=1), step, Q(6), ours.PACTQuantizer(3, alpha=1.75))),
        ours.QuantLinear(8, 8, plan=Plan(Q(6, terms=2, method="NEAREST"), Q(5))),
        ours.QuantLinear(8, 8, plan=Plan("pow2<-6,0>", Q(5), ours.FormatQuantizer("int6", 0.25))),
    )


def wide() -> nn.Module:
    plan = Plan("fixed<20,2,RND,SAT>", "fixed<24,3,RND,SAT>", "ufixed<16,1,RND,SAT>", "fixed<30,5,TRN,WRAP>")
    return nn.Sequential(ours.QuantLinear(6, 9, plan=plan), nn.ReLU(), ours.QuantLinear(9, 4, plan=plan)).double()


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (linear, (6,)),
    "residual": (Residual, (2, 12, 12)),
    "accumulators": (accumulators, (2, 8, 8)),
    "without multipliers": (without_multipliers, (6,)),
    "wide": (wide, (6,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_same_bits(name: str, tmp_path: Path) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(3)
    model = make()
    x = 1.5 * numbers(40, *shape).to(next(model.parameters()).dtype)
    for _ in range(10):
        model(x[:8])  # initialises the binary points and updates the normalisations' statistics
    description = export_hls(model, tmp_path, x)

    assert model.training and all(module.training for module in model.modules())
    done = subprocess.run(
        [built(tmp_path, "model.cpp", "testbench.cpp")], cwd=tmp_path, capture_output=True, check=True
    )
    assert done.stdout == b"40 samples, 0 codes differ\n"
    y = model.eval()(x).detach()
    fmt = parse(description["output"]["format"])
    codes = np.loadtxt(tmp_path / "expected.txt", dtype=np.int64)
    assert np.array_equal(np.ldexp(codes.astype(np.float64), -fmt.fraction), y.double().numpy())
    assert len(np.unique(codes)) > 10
    assert json.loads((tmp_path / "model.json").read_text()) == description


def test_testbench_detects_a_difference(tmp_path: Path) -> None:
    fmt = "fixed<6,3,RND,SAT>"
    export_hls(ours.QuantLinear(3, 2, plan=Plan(fmt, fmt, fmt, fmt)), tmp_path, numbers(4, 3))
    program = built(tmp_path, "model.cpp", "testbench.cpp")
    written = subprocess.run([program, "inputs.txt"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert written == (tmp_path / "expected.txt").read_text()
    first, rest = written.split(" ", 1)
    (tmp_path / "expected.txt").write_text(f"{int(first) + 1} {rest}")
    done = subprocess.run([program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "4 samples, 1 codes differ\n")
    (tmp_path / "expected.txt").write_text(first)
    assert subprocess.run([program], cwd=tmp_path, capture_output=True, check=False).returncode == 2


def test_conversions(tmp_path: Path) -> None:
    """Check all modes of fixed.hpp, from all codes of formats with more and with fewer bits."""
    roundings = ("TRN", "TRN_ZERO", "RND", "RND_ZERO", "RND_MIN_INF", "RND_INF", "RND_CONV")
    overflows = [("SAT", 0), ("SAT_ZERO", 0), ("SAT_SYM", 0), *(("WRAP", n) for n in (0, 1, 3))]
    overflows += [("WRAP_SM", n) for n in (0, 1, 3)]
    shapes = [((8, 4, True), (5, 2, True)), ((8, 4, True), (4, 3, False)), ((7, 3, False), (3, 4, True))]
    shapes += [((4, 2, True), (9, 2, True)), ((6, 80, True), (8, 80, True)), ((6, -90, True), (4, 1, True))]
    pairs = [
        (Fixed(*source), Fixed(*target, rounding, overflow, bits))
        for (source, target), rounding, (overflow, bits) in product(shapes, roundings, overflows)
        if not (overflow == "WRAP_SM" and not target[2])
    ]
    fmt = ours.QuantLinear(1, 1, plan=Plan(*["fixed<6,3,RND,SAT>"] * 4))
    export_hls(fmt, tmp_path, numbers(1, 1))

    def ap(f: Fixed) -> str:
        name = "ap_fixed" if f.signed else "ap_ufixed"
        return f"{name}<{f.width}, {f.integer}, AP_{f.rounding}, AP_{f.overflow}, {f.saturated_bits}>"

    calls = "\n".join(f"    all<{ap(s)}, {ap(t)}>({s.min_code}, {s.max_code});" for s, t in pairs)
    (tmp_path / "conversions.cpp").write_text(
        '#include "fixed.hpp"\n#include <cstdio>\n'
        "template <class Source, class Target> void all(int low, int high) {\n"
        "    for (int c = low; c <= high; ++c) {\n"
        "        const Target y = from_code<Source>(c);\n"
        '        std::printf("%d ", int(code_of(y)));\n'
        "    }\n"
        '    std::printf("\\n");\n'
        f"}}\nint main() {{\n{calls}\n}}\n"
    )
    done = subprocess.run([built(tmp_path, "conversions.cpp")], capture_output=True, text=True, check=True)
    for (source, target), line in zip(pairs, done.stdout.splitlines(), strict=True):
        codes = range(source.min_code, source.max_code + 1)
        assert [int(word) for word in line.split()] == [fixed_code(fixed_value(c, source), target) for c in codes], (
            target
        )


def test_input_of_several_layers(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self, *formats: str) -> None:
            super().__init__()
            self.a, self.b = (ours.QuantLinear(3, 3, False, plan=Plan(f, input=f)) for f in formats)
            self.add = ours.QuantAdd()

        def forward(self, x: Any) -> Any:
            return self.add(self.a(x), self.b(x))

    one, other = "fixed<6,3,RND,SAT>", "fixed<5,2,RND,SAT>"
    assert export_hls(Twice(one, one), tmp_path, numbers(4, 3))["input"]["format"] == one
    with pytest.raises(ValueError, match=re.escape(f"got {one} of 'a', {other} of 'b'")):
        export_hls(Twice(one, other), tmp_path, numbers(4, 3))
    given = "fixed<9,4,RND_CONV,SAT>"
    assert export_hls(Twice(one, other), tmp_path, numbers(4, 3), input=given)["input"]["format"] == given
    program = built(tmp_path, "model.cpp", "testbench.cpp")
    assert b" 0 codes differ" in subprocess.run([program], cwd=tmp_path, capture_output=True, check=True).stdout


FIXED = "fixed<6,2,RND,SAT>"


def lsq() -> Any:
    quantizer = ours.LSQQuantizer(4)
    quantizer._set(torch.tensor(0.3))
    return quantizer


def layer(*plan: Any, features: int = 3, **options: Any) -> Any:
    return nn.Sequential(ours.QuantLinear(features, 2, plan=Plan(*plan, **options)))


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = ours.QuantLinear(3, 3, plan=Plan(FIXED, FIXED, FIXED))

    def forward(self, x: Any) -> Any:
        return self.a(x) + x


class Branch(Sum):
    def forward(self, x: Any) -> Any:
        return self.a(x) if x.sum() > 0 else x


REFUSED: dict[str, tuple[Any, str]] = {
    "float layer": (
        lambda: nn.Sequential(nn.Linear(3, 2)),
        "'0' must be a layer that can be exported, got Linear (quan",
    ),
    "other layer": (lambda: nn.Sequential(nn.GELU()), "'0' must be a layer that can be exported, got GELU"),
    "float weight": (lambda: layer(None, FIXED, FIXED), "'0' must have a format for its weight"),
    "float bias": (lambda: layer(FIXED, None, FIXED), "'0' must have a format for its bias"),
    "float input": (lambda: layer(FIXED, FIXED), "input must be given if no one format rounds"),
    "float format": (lambda: layer("e4m3fn", FIXED, FIXED), "'0' must round to fixed point, got e4m3fn"),
    "blocks": (lambda: layer(FIXED, FIXED, "mxfp8_e4m3"), "'0' must round to fixed point, got mxfp8_e4m3"),
    "learned scale": (lambda: layer(lsq(), FIXED, FIXED), "'0' must have scales that are powers of two, got 0.3"),
    "moving scale": (
        lambda: layer(FIXED, FIXED, ours.FormatQuantizer("int8", "amax")),
        "'0' must have a scale that is a constant, got scale='amax'",
    ),
    "open scale": (lambda: layer(FIXED, FIXED, ours.FormatQuantizer("int8", "first")), "'0' must be called with a sam"),
    "open point": (lambda: layer(Q(4), FIXED, FIXED), "'0' must be called with a sample first"),
    "channels": (lambda: layer(FIXED, FIXED, ours.LSQQuantizer(4, axis=1, channels=3)), "'0' must be called with a"),
    "powers": (lambda: layer(FIXED, FIXED, "pow2<-3,0>"), "'0' must round inputs and outputs to fixed point (powers"),
    "stochastic": (lambda: layer(FIXED, FIXED, "fixed<6,2,STOCHASTIC,SAT>"), "'0' must round without random numbers"),
    "float accumulator": (
        lambda: layer(FIXED, FIXED, FIXED, accumulator="bf16"),
        "'0' must have an accumulator in fixed point, got bf16",
    ),
    "wide sums": (
        lambda: layer(FIXED, FIXED, "fixed<23,3,RND,SAT>"),
        "'0' must have sums and numbers that torch.float32 holds exactly, in 24 bits (model.double() has 53), got",
    ),
    "statistics": (
        lambda: nn.Sequential(ours.QuantBatchNorm1d(3, track_running_stats=False, plan=Plan(FIXED, FIXED, FIXED))),
        "'0' must have running statistics",
    ),
    "operator": (Sum, "'add' must be a call of a module (QuantAdd adds), or of relu or flatten"),
    "control flow": (Branch, "model must be one that torch.fx can trace"),
    "nothing": (lambda: nn.Sequential(nn.Flatten()), "input must be given"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(f"export_hls: {message}")):
        export_hls(make(), tmp_path / "none", numbers(4, 3))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (nn.AvgPool2d(3), "must divide by a power of two, got 9"),
        (nn.AvgPool2d(2, ceil_mode=True), "must divide all sums by one number"),
        (nn.AdaptiveAvgPool2d(2), "must average over whole images"),
        (nn.MaxPool2d(2, return_indices=True), "must return its values alone"),
        (nn.Flatten(2), "must flatten all axes but the first"),
    ],
)
def test_refused_pooling(pool: Any, message: str, tmp_path: Path) -> None:
    model = nn.Sequential(ours.FormatQuantizer(FIXED), pool)
    with pytest.raises(ValueError, match=re.escape(f"export_hls: '1' {message}")):
        export_hls(model, tmp_path, numbers(4, 2, 6, 6))


def test_wrong_arguments(tmp_path: Path) -> None:
    model = layer(FIXED, FIXED, FIXED)
    wrong: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
        ((3, tmp_path, numbers(4, 3)), {}, TypeError, "model must be a torch.nn.Module, got int"),
        ((model, 3, numbers(4, 3)), {}, TypeError, "directory must be a str or a path, got int"),
        ((model, tmp_path, numbers(4, 3).half()), {}, TypeError, "example must"),
        (
            (model, tmp_path, numbers(3)),
            {},
            ValueError,
            "example must be samples of shape (B, ...), B >= 1, got shape (3,)",
        ),
        ((model, tmp_path, numbers(0, 3)), {}, ValueError, "example must be samples"),
        ((model, tmp_path, numbers(4, 3)), {"input": "e4m3fn"}, ValueError, "input must be a Fixed without random"),
        ((model, tmp_path, numbers(4, 3)), {"input": 8}, TypeError, "input must"),
    ]
    for arguments, options, error, message in wrong:
        with pytest.raises(error, match=re.escape(f"export_hls: {message}")):
            export_hls(*arguments, **options)
