"""python -m fastiter, and its benchmark."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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


def number(value: float) -> _self_benchmark.Pair:
    """Return a pair whose results differ by `value`."""
    return _self_benchmark.Pair("rnn", "a call", lambda: value, "a peer", lambda: 0.0, lambda x, y: abs(x - y), 0.5)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_self_benchmark, "_SECONDS", 0.0)


@pytest.mark.usefixtures("at_once")
def test_every_result_is_right_and_timed(capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _self_benchmark.main()
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    rows = re.findall(r"^(\w+) +\S.*? +(\d+\.\d{3})  \S.*? +(\d+\.\d{3})  ", printed, re.MULTILINE)
    assert all(float(ours) > 0 and float(theirs) > 0 for _, ours, theirs in rows)
    installed = [group for group in _self_benchmark.GROUPS if not _self_benchmark._missing(group.packages)]
    assert list(dict.fromkeys(family for family, *_ in rows)) == list(dict.fromkeys(g.family for g in installed))
    assert "not timed" not in printed
    for package in {package for group in installed for package in group.packages}:
        assert re.search(rf"^compared with .*\b{package} \d", printed, re.MULTILINE)


def test_a_wrong_result_is_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    def timed(pair: _self_benchmark.Pair) -> tuple[float, float]:
        raise AssertionError("a wrong result is timed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_self_benchmark, "seconds", timed)
        assert _self_benchmark.measured(number(0.75)) == "a call against a peer: an error of 7.5e-01, more than 5.0e-01"
        assert _self_benchmark.measured(number(float("nan"))) is not None
        with pytest.raises(AssertionError, match="a wrong result is timed"):
            _self_benchmark.measured(number(0.5))
    assert capsys.readouterr().out.count("not timed: the results differ") == 2


@pytest.mark.usefixtures("at_once")
def test_packages_that_are_missing_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> list[_self_benchmark.Pair]:
        raise AssertionError("its package is missing")

    groups = [_self_benchmark.Group("mdp", ("no-such-a", "numpy", "no-such-b"), refused)]  # type: ignore[arg-type]
    monkeypatch.setattr(_self_benchmark, "GROUPS", groups)
    _self_benchmark.main()
    printed = capsys.readouterr().out
    assert "compared with nothing\n" in printed
    assert "left out: mdp against no-such-a, for want of no-such-a and no-such-b\n" in printed


@pytest.mark.usefixtures("at_once")
def test_a_wrong_result_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    group = _self_benchmark.Group("rnn", ("numpy",), lambda: iter([number(0.75), number(0.0)]))
    monkeypatch.setattr(_self_benchmark, "GROUPS", [group])
    with pytest.raises(SystemExit, match=r"^fastiter bench: a call against a peer: an error"):
        _self_benchmark.main()


def test_every_family_is_compared_or_left_out() -> None:
    families = {path.parent.name for path in Path(_self_benchmark.__file__).parent.glob("*/_torch")}
    compared = {group.family for group in _self_benchmark.GROUPS}
    assert families - {"accelerate"} == compared | set(_self_benchmark.ALONE)


def test_verdict() -> None:
    assert _self_benchmark.verdict(2.0) == "2.0 times as fast"
    assert _self_benchmark.verdict(1.0) == "the same"
    assert _self_benchmark.verdict(0.5).startswith("slower, by 2.00: please report it")
