"""The installation of peers: each requirement that fails is left out with a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import pytest

from bench.harness import install as module
from bench.harness.install import install, only_wheels, peers


def test_peers_are_those_of_the_extra_for_this_interpreter() -> None:
    names = {requirement.split(">")[0] for requirement in peers()}
    assert {"pymdptoolbox", "quantecon", "scikit-learn"} <= names
    assert not names & {"fastiter-kernels", "numpy", "hypothesis"}


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


def test_for_a_card_only_wheels_are_installed_and_torch_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[Sequence[str]] = []

    def pip(requirements: Sequence[str]) -> bool:
        commands.append(requirements)
        return True

    monkeypatch.setattr(module, "pip", pip)
    assert install(["mamba-ssm>=2.2"], only_wheels) == []
    (command,) = commands
    assert list(command[:2]) == ["--only-binary", ":all:"] and command[-1] == "mamba-ssm>=2.2"
    assert {f"{name}=={version(name)}" for name in ("torch", "triton")} <= set(command)
