"""python -m fastiter, and its benchmark."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from fastiter import _self_benchmark, show_config


def test_config(capsys: pytest.CaptureFixture[str]) -> None:
    show_config()
    printed = capsys.readouterr().out.splitlines()
    done = subprocess.run([sys.executable, "-m", "fastiter"], capture_output=True, text=True, check=True)
    # The pool depends on whether torch is imported.
    assert done.stdout.splitlines()[:3] == printed[:3]


def test_unknown_command() -> None:
    done = subprocess.run([sys.executable, "-m", "fastiter", "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "invalid choice: 'run'" in done.stderr


def test_benchmark(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("scipy")
    monkeypatch.setattr(_self_benchmark, "_SECONDS", 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _self_benchmark.main()
    finally:
        torch.set_num_threads(threads)
    rows = re.findall(r"^(\w+) +\S.*? +(\d+\.\d{3})  \S.*? +(\d+\.\d{3})  ", capsys.readouterr().out, re.MULTILINE)
    assert [family for family, *_ in rows] == ["rnn", "rnn", "rnn", "scan", "delta", "newton", "ssm", "quant", "relax"]
    assert all(float(ours) > 0 and float(theirs) > 0 for _, ours, theirs in rows)


def test_verdict() -> None:
    assert _self_benchmark.verdict(2.0) == "2.0 times as fast"
    assert _self_benchmark.verdict(1.0) == "the same"
    assert _self_benchmark.verdict(0.5).startswith("slower, by 2.00: please report it")
