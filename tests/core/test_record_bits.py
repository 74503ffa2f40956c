"""The script that compares bits before and after code moves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import fastiter
from tests.core import record_bits


def test_every_case_runs_and_has_a_unique_name() -> None:
    cases = [case for family in (*record_bits.ON_ARRAYS, record_bits.tensors) for case in family()]
    assert len({name for name, _ in cases}) == len(cases)
    for name, call in cases[::9]:
        assert b"".join(record_bits.bytes_of(call())), name


def test_differences_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    digests = {1: {"a": "1", "b": "2"}, 2: {"a": "1", "b": "2"}}
    monkeypatch.setattr(fastiter._core, "isa_available", lambda: "v1")
    monkeypatch.setattr(
        record_bits, "in_process", lambda isa, threads: {f"{isa} {name}": x for name, x in digests[threads].items()}
    )
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    assert record_bits.main(before, None) == 0
    assert record_bits.main(after, before) == 0 and json.loads(after.read_text()) == {"v1 a": "1", "v1 b": "2"}
    digests[2]["b"] = "3"
    assert record_bits.main(after, None) == 1 and "v1 b: 1 thread and 2 differ" in capsys.readouterr().out
    digests[1] = digests[2] = {"b": "4"}
    assert record_bits.main(after, before) == 1
    assert {"v1 b: not as before", "v1 a: missing"} <= set(capsys.readouterr().out.splitlines())


def test_a_bit_a_dtype_and_a_shape_count() -> None:
    x = np.zeros((2, 3), np.float32)
    others = [x.T, x.astype(np.float64), -x, (x, x), x.reshape(-1)]
    assert len({b"".join(record_bits.bytes_of(y)) for y in (x, *others)}) == 6
