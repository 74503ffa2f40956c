"""The grammars of formats and of the constraint solver: valid and damaged texts, by Hypothesis and by seeds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastiter.quant import parse
from tests.public import fuzz, texts
from tests.public.calls import entries
from tests.public.pick import Pick, seeded
from tests.public.texts import Accepted

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", fuzz.KINDS)
@given(st.data())
@settings(max_examples=40)
def test_wrong_inputs_are_refused_and_right_ones_keep_their_meaning(kind: str, data: st.DataObject) -> None:
    fuzz.KINDS[kind](Pick(lambda low, high: data.draw(st.integers(low, high))))


@given(st.text(alphabet=texts.LETTERS + "fixdloatmp", max_size=20))
@settings(max_examples=200)
def test_any_text_is_a_format_or_refused(text: str) -> None:
    texts.read_format(text)


@given(st.text(alphabet="ab01 <>=!+-*%^()[].,;|\n#", max_size=12))
@settings(max_examples=200)
def test_any_text_is_a_problem_or_refused(text: str) -> None:
    texts.solve_text(text)


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_most_inputs_are_wrong_and_some_are_right(kind: str) -> None:
    """The fuzzer exercises both outcomes of each decision."""
    count = 60 if kind == "problems" else 300
    assert 0.3 * count < fuzz.batch(kind, 0, count) < 0.95 * count


def test_a_misspelt_name_is_suggested() -> None:
    for wrong, right in (
        ("e4m3f", "e4m3fn"),
        ("fixd<8,4>", "fixed"),
        ("bfloat1", "bfloat16"),
        ("mxfp4_e2m", "mxfp4_e2m1"),
    ):
        with pytest.raises(ValueError, match=f"did you mean .*'{right}'"):
            parse(wrong)


# ---- The judges themselves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "read_as"),
    [("fixed<8,4,RND,SAT>", "fixed<8,4,RND,WRAP>"), ("fixed<8,4>", "fixed<8,3>"), ("mx<fp4>", "mx<e4m3fn>")],
)
def test_a_word_that_is_passed_over_is_found(text: str, read_as: str) -> None:
    texts.check_means(text, parse(text))
    with pytest.raises(Accepted):
        texts.check_means(text, parse(read_as))


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        ("x in [1, 4..6]; y == -x ^ 2", {"x": 5, "y": -25}, True),
        ("x in [1, 4..6]", {"x": 3}, False),
        ("x != [1, 2] | y == 1", {"x": 2, "y": 0}, False),
        ("x % 0 == 1 or y > 2", {"x": 2, "y": 3}, True),
        ("x % 0 != 1", {"x": 2}, False),
        ("1 < x in 2..3", {"x": 2}, True),
        ("-7 % 3 == x", {"x": 2}, True),
    ],
)
def test_python_judges_constraints(text: str, known: dict[str, int], expected: bool) -> None:
    assert texts.holds(text, known) is expected


def test_a_wrong_call_that_is_accepted_or_refused_without_a_name_is_found() -> None:
    def raises() -> None:
        raise ValueError("index out of range")

    for call, is_right in ((lambda: None, False), (raises, False), (raises, True)):
        with pytest.raises(Accepted):
            entries.refused(call, ("sor",), is_right, lambda: "this")
    assert entries.is_bipartite(entries.MATRIX != 0)
    assert not entries.is_bipartite(np.ones((3, 3), bool))


# ---- The program ----------------------------------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.public.fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_program_reports_inputs_a_minute() -> None:
    done = run("--seconds", "2", "--processes", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("a minute")


def test_a_crash_is_reported_with_its_batch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = "print('batch matrices 17', flush=True)\nimport os\nos.abort()"
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **how: popen([sys.executable, "-c", program], **how))
    assert fuzz.main(1.0, 1) == 1
    assert "exit status -6 in: python -m tests.public.fuzz --replay matrices 17" in capsys.readouterr().err


def test_a_hang_is_reported_with_its_batch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    program = "print('batch problems 3', flush=True)\nimport time\ntime.sleep(100)"
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **how: popen([sys.executable, "-c", program], **how))
    monkeypatch.setattr(fuzz, "PATIENCE", 1.0)
    assert fuzz.main(1.0, 1) == 1
    assert "no answer for 1 s in: python -m tests.public.fuzz --replay problems 3" in capsys.readouterr().err


def test_a_batch_depends_only_on_its_number() -> None:
    assert [seeded(7).integer(0, 10**9) for _ in range(2)] == [seeded(7).integer(0, 10**9)] * 2
    assert fuzz.batch("formats", 3, 50) == fuzz.batch("formats", 3, 50)
