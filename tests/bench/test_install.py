"""The installation of peers: each requirement that fails is left out with a sentence."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench.harness.install import install, peers


def test_peers_are_those_of_the_extra_for_this_interpreter() -> None:
    names = {requirement.split(">")[0] for requirement in peers()}
    assert {"pymdptoolbox", "quantecon", "scikit-learn"} <= names
    assert not names & {"fastiter-kernels", "numpy", "pytest"}


@pytest.mark.parametrize("broken", [set(), {"b>=2"}, {"a", "c"}])
def test_a_requirement_that_fails_is_left_out(broken: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    installed: list[str] = []

    def installs(requirements: Sequence[str]) -> bool:
        if broken & set(requirements):
            return False
        installed.extend(requirements)
        return True

    assert install(["a", "b>=2", "c"], installs) == sorted(broken)
    assert installed == sorted({"a", "b>=2", "c"} - broken)
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in said] == sorted(broken)
