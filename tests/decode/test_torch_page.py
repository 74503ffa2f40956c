"""docs/decode: its tables have the models and the formats that there are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from fastiter.decode._pack import KINDS, pack
from fastiter.decode._torch.plans import PLANS

PAGE = (Path(__file__).parents[2] / "docs" / "decode" / "index.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_all_models_are_listed() -> None:
    rows = re.findall(r"^\| ([A-Z].*?|xLSTM.*?) \|", section("Models"), re.MULTILINE)
    names = [re.sub(r" \(.*\)", "", name) for row in rows for name in row.split(", ")]
    classes = {name.replace("-", "").replace(".", "_").replace("MoE", "Moe") + "ForCausalLM" for name in names}
    assert classes == set(PLANS) and len(names) == len(PLANS)


def test_all_formats_are_listed_with_their_bits() -> None:
    listed = re.findall(r'^\| ("\S.*?) \| ([\d., ]+) \|', section("Formats"), re.MULTILINE)
    bits = {
        name: float(number)
        for names, numbers in listed
        for name, number in zip(re.findall(r'"(\w+)"', names), numbers.split(", "), strict=True)
    }
    weight = np.random.default_rng(0).standard_normal((256, 256))
    assert bits == {fmt: 8 * pack(weight, fmt).nbytes / weight.size for fmt in KINDS}
