"""Self-play of a conjecturer and a prover: all of a list of hard statements are proved where expert iteration has half.

A statement is a permutation of 8 objects, and its proof a sequence of at most 18 reversals of prefixes that sorts it,
which is verified by execution: 40,320 statements whose shortest proofs, of 0 to 9 steps, are known exactly, as `mdp`
finds them. The prover is a table of the steps in proofs so far. The list has 1000 statements at a distance of 6 or
more, for which random steps almost never find a proof, so that nothing is learned from most attempts.

Expert iteration spends all attempts on unproved statements of the list, and ends when there are none. Self-play spends
half of them on conjectures: proved statements, changed by q random reversals, where the conjecturer learns which q lead
to statements that the prover proves rarely. After ten iterations of 8000 attempts self-play has proved at least 0.99 of
the list, expert iteration at most 0.66. After thirty both have proved all of it, but self-play's prover proves at least
2.5 times as many of all statements at the first attempt. The conjecturer prefers q = 1 in the end: small steps.

    python examples/papers/self_play.py  # seconds; writes self_play.png next to this file

:Paper: STP: Self-play LLM Theorem Provers with Iterative Conjecturing and Proving (2025), arXiv 2502.00212
:Shows: the dynamics of the loop: expert iteration starves on hard statements, conjectures lead up to them
:Does not show: theorem proving: a Cayley graph is in place of Lean, and two tables in place of a language model
:Starts from: feedback
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from _paper import OURS, THEIRS, command_line, figure_option, option, progress, save
from matplotlib import pyplot

from fastiter import mdp

Array = Any
OBJECTS, LONGEST, ATTEMPTS, PRIOR = 8, 18, 8, 0.3
HARD = 6  # distance of the statements in the list
MOVES = np.arange(1, 7)  # numbers q of reversals that make a conjecture
DISTANCES = [1, 7, 42, 251, 1191, 4281, 10561, 15011, 8520, 455]  # numbers of statements by the length of their proofs


@dataclass(frozen=True)
class Options:
    iterations: int = option(30, "iterations", 10)
    seeds: int = option(3, "runs of each method", 1)
    listed: int = option(1000, "statements in the list", 300)
    figure: Path = figure_option(__file__)


def statements() -> Array:
    """Return the statement (40320, 7) after each of the reversals; statement 0 is the sorted one."""
    tuples = np.array(list(permutations(range(OBJECTS))))
    weights = OBJECTS ** np.arange(OBJECTS - 1, -1, -1)  # in the order of permutations, codes increase
    codes = tuples @ weights
    after = [np.hstack([tuples[:, :k][:, ::-1], tuples[:, k:]]) for k in range(2, OBJECTS + 1)]
    return np.stack([np.searchsorted(codes, each @ weights) for each in after], axis=1)


def distances(after: Array) -> Array:
    """Return the length of the shortest proof of each statement, from a decision process with costs 1."""
    S, A = after.shape
    P = scipy.sparse.csr_array((np.ones(S * A), after.ravel(), np.arange(S * A + 1)), shape=(S * A, S))
    problem = mdp.MDP(P, np.ones(S * A), 1.0, states=np.repeat(np.arange(S), A), terminal=[0], sense="min")
    return np.rint(problem.solve("gs", order="bfs").value).astype(int)


@dataclass
class Prover:
    """A law of steps for each statement, proportional to their number in the proofs learned so far."""

    after: Array
    rng: np.random.Generator
    counts: Array = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.full(self.after.shape, PRIOR)

    def attempt(self, statement: Array) -> tuple[Array, Array, Array]:
        """Return the statements and steps of each attempt (LONGEST, n), and its number of steps, or 0 if it fails."""
        at, steps = np.empty((LONGEST, len(statement)), int), np.empty((LONGEST, len(statement)), int)
        length = np.zeros(len(statement), int)
        now = statement.copy()
        for t in range(LONGEST):
            law = self.counts[now].cumsum(axis=1)
            at[t] = now
            steps[t] = (law < self.rng.random(len(now))[:, None] * law[:, -1:]).sum(1)
            now = self.after[now, steps[t]]
            length[(now == 0) & (length == 0)] = t + 1
        return at, steps, length

    def prove(self, statement: Array) -> Array:
        """Attempt each statement several times, learn from the proofs of those that mostly fail, return pass rates."""
        at, steps, length = self.attempt(np.repeat(statement, ATTEMPTS))
        rate = (length > 0).reshape(-1, ATTEMPTS).mean(1)
        used = (np.arange(LONGEST)[:, None] < length) & np.repeat(rate <= 0.5, ATTEMPTS)
        np.add.at(self.counts, (at[used], steps[used]), 1)
        return rate

    def pass_rates(self) -> Array:
        """Return the probability with which a single attempt proves each statement, exactly."""
        law = self.counts / self.counts.sum(1, keepdims=True)
        proved = np.zeros(len(law))
        proved[0] = 1
        for _ in range(LONGEST):
            proved = (law * proved[self.after]).sum(1)
            proved[0] = 1
        return proved


@dataclass
class Conjecturer:
    """A law of the number of reversals by which a proved statement is changed."""

    prover: Prover
    weights: Array = field(default_factory=lambda: np.ones(len(MOVES)))

    def propose(self, proved: Array, n: int) -> tuple[Array, Array]:
        """Return n conjectures and the index of each one's q."""
        rng = self.prover.rng
        index = rng.choice(len(MOVES), n, p=self.weights / self.weights.sum())
        statement = rng.choice(np.flatnonzero(proved), n)
        for move in range(MOVES[-1]):
            changed = self.prover.after[statement, rng.integers(self.prover.after.shape[1], size=n)]
            statement = np.where(move < MOVES[index], changed, statement)
        return statement, index

    def learn(self, index: Array, rate: Array) -> None:
        hard = (rate > 0) & (rate <= 0.25)
        self.weights += np.bincount(index[hard], minlength=len(MOVES))


def run(after: Array, targets: Array, iterations: int, seed: int, conjecturing: bool) -> tuple[Array, Array, Array]:
    """Return the fraction of the list proved after each iteration, final pass rates, and the law of q."""
    prover = Prover(after, np.random.default_rng(seed))
    conjecturer = Conjecturer(prover)
    proved = np.zeros(len(after), bool)
    proved[0] = True
    history = []
    for _ in range(iterations):
        unproved = targets[~proved[targets]]
        tried = 0 if len(unproved) == 0 else len(targets) // 2 if conjecturing else len(targets)
        batch = np.resize(unproved, tried)
        if conjecturing:
            statement, index = conjecturer.propose(proved, len(targets) - len(targets) // 2)
            batch = np.concatenate([batch, statement])
        rate = prover.prove(batch)
        proved[batch[rate > 0]] = True
        if conjecturing:
            conjecturer.learn(index, rate[tried:])
        history.append(proved[targets].mean())
    return np.array(history), prover.pass_rates(), conjecturer.weights / conjecturer.weights.sum()


def main(options: Options) -> None:
    after = statements()
    distance = distances(after)
    print(f"statements by the length of the shortest proof: {np.bincount(distance)}")
    assert np.bincount(distance).tolist() == DISTANCES
    curves: dict[str, list[Array]] = {"expert iteration": [], "self-play": []}
    rates: dict[str, list[float]] = {name: [] for name in curves}
    laws = []
    with progress(2 * options.seeds, "runs") as bar:
        for seed in range(options.seeds):
            hard = np.flatnonzero(distance >= HARD)
            targets = np.random.default_rng(1000 + seed).choice(hard, options.listed, replace=False)
            for name in curves:
                history, single, law = run(after, targets, options.iterations, seed, name == "self-play")
                curves[name].append(history)
                rates[name].append(float(single.mean()))
                if name == "self-play":
                    laws.append(law)
                bar.update()
    marks = [n for n in (5, 10, 20, 30) if n <= options.iterations]
    for name, each in curves.items():
        shown = "   ".join(f"{n}: {min(h[n - 1] for h in each):.3f}-{max(h[n - 1] for h in each):.3f}" for n in marks)
        print(f"{name:17} list proved after {shown}   all at once {min(rates[name]):.3f}-{max(rates[name]):.3f}")
    print("law of q at the end: " + " ".join(f"{x:.2f}" for x in np.mean(laws, axis=0)))
    expert, play = ([history[9] for history in each] for each in curves.values())
    if options.listed == 1000:
        assert min(play) >= 0.99 and max(expert) <= 0.66
        assert min(rates["self-play"]) >= 2.5 * max(rates["expert iteration"])
        assert all(law.argmax() == 0 for law in laws)
    assert min(play) > max(expert)
    draw(curves, np.mean(laws, 0), options.figure)


def draw(curves: dict[str, list[Array]], law: Array, path: Path) -> None:
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(9, 4), layout="constrained", gridspec_kw={"width_ratios": [2, 1]}
    )
    for (name, each), color in zip(curves.items(), (THEIRS, OURS), strict=True):
        for k, history in enumerate(each):
            left.plot(np.arange(1, len(history) + 1), history, color=color, label=name if k == 0 else None)
    left.set(xlabel="iteration", ylabel="part of the list that is proved")
    left.legend()
    right.bar(MOVES, law, color=OURS)
    right.set(xlabel="reversals q that make a conjecture", ylabel="probability at the end")
    save(figure, path)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
