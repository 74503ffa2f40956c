"""Learning from preferences: randomised estimates reach small regret, and half of the questions may remain unasked.

A learner in a linear decision process sees no rewards, only which of two trajectories is preferred, by a logistic model
of their difference. Instead of bonuses it adds noise to two estimates: to the reward's parameters, by logistic
regression with a ridge on the answers, and to the values in each step's least squares. One trajectory is of the new
policy, the other one of the policy before. A question is asked if two parameters drawn from the posterior are expected
to disagree about the pair by more than epsilon, for which there is a closed form, 2 s sqrt(x Sigma^-1 x / pi).

In 2000 episodes, over five seeds, the regret grows like t^0.5 or more slowly. It is at most 0.75 of that without noise
and a tenth of that of random policies. With epsilon = 0.05 at most 45 % of the questions are asked, for at most 1.15
times the regret; with larger epsilon, fewer questions and more regret. Values and regrets are exact, by `mdp`.

    python examples/papers/preferences.py  # 10 seconds to 3 minutes; writes preferences.png next to this file

:Paper: Making RL with Preference-based Feedback Efficient via Randomization (2024), arXiv 2310.14554
:Shows: regret below sqrt(t), and the trade of regret for questions
:Does not show: the constants of the theorems; the paper has no experiment, so that these numbers are not compared
:Starts from: feedback
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from _paper import OTHERS, OURS, THEIRS, command_line, figure_option, option, progress, save
from matplotlib import pyplot

from fastiter import mdp

Array = Any
S, A, D, H = 15, 4, 6, 6
NOISE, SHARPNESS = 0.5, 2.0
EPSILONS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)


@dataclass(frozen=True)
class Options:
    episodes: int = option(2000, "episodes", 200)
    seeds: int = option(5, "runs of each learner", 2)
    figure: Path = figure_option(__file__)


@dataclass(frozen=True)
class World:
    """A linear decision process: features (S, A, D), P = features laws (S, A, S), rewards (S, A)."""

    features: Array
    P: Array
    rewards: Array

    @classmethod
    def random(cls) -> World:
        rng = np.random.default_rng(0)
        features, laws = rng.dirichlet(np.full(D, 0.3), (S, A)), rng.dirichlet(np.full(S, 0.2), D)
        theta = rng.random(D)
        theta = (theta - theta.min()) / (theta.max() - theta.min())
        return cls(features, features @ laws, features @ theta)

    def optimum(self) -> float:
        problem = mdp.MDP(self.P, self.rewards)
        return float(mdp.finite_horizon(problem, H).value[0, 0])

    def value(self, policy: Array) -> Array:
        """Return the values at the start of deterministic policies (runs, H, S)."""
        value, states = np.zeros((len(policy), S)), np.arange(S)
        for h in range(H - 1, -1, -1):
            action = policy[:, h]
            value = self.rewards[states, action] + np.einsum("rst,rt->rs", self.P[states, action], value)
        return value[:, 0]

    def play(self, policy: Array, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        """Return states, actions and next states (runs, H) of a trajectory of each policy."""
        runs = np.arange(len(policy))
        states, actions = np.zeros((len(policy), H + 1), int), np.zeros((len(policy), H), int)
        for h in range(H):
            actions[:, h] = policy[runs, h, states[:, h]]
            law = self.P[states[:, h], actions[:, h]].cumsum(-1)
            states[:, h + 1] = (law[:, :-1] < rng.random(len(policy))[:, None]).sum(-1)
        return states[:, :-1], actions, states[:, 1:]


def gaussian(precision: Array, rng: np.random.Generator) -> Array:
    """Return samples of N(0, precision^-1), one for each matrix."""
    factor = np.linalg.cholesky(precision)
    return np.linalg.solve(np.swapaxes(factor, -1, -2), rng.standard_normal((*precision.shape[:-1], 1)))[..., 0]


def disagreement(x: Array, precision: Array) -> Array:
    """Return E |x . (a - b)| for a and b from N(., NOISE^2 precision^-1)."""
    return 2 * NOISE * np.sqrt(np.einsum("ri,ri->r", x, np.linalg.solve(precision, x[..., None])[..., 0]) / np.pi)


class Learners:
    """Several independent runs, each with its noise and its threshold for questions."""

    def __init__(self, world: World, noise: Array, epsilon: Array, episodes: int, rng: np.random.Generator) -> None:
        self.world, self.noise, self.epsilon, self.rng = world, noise, epsilon, rng
        runs = len(noise)
        self.theta = np.zeros((runs, D))
        self.answered = np.tile(np.eye(D), (runs, 1, 1))  # 1 + sum x x^T over the answers
        self.seen = np.tile(np.eye(D), (runs, 1, 1))  # the same for the features of all steps
        self.targets = np.zeros((runs, D, S))
        self.pairs, self.answers = np.zeros((runs, episodes, D)), np.zeros((runs, episodes))
        self.questions, self.count = np.zeros(runs, int), 0

    def fit(self) -> None:
        """Two Newton steps, at most 1 long, of the logistic regression; pairs without an answer are 0."""
        x, y = self.pairs[:, : self.count], self.answers[:, : self.count]
        for _ in range(2):
            p = 1 / (1 + np.exp(-SHARPNESS * (x @ self.theta[..., None])[..., 0]))
            gradient = SHARPNESS * ((p - y)[:, None] @ x)[:, 0] + self.theta
            weighted = x * (SHARPNESS**2 * p * (1 - p))[..., None]
            curvature = np.swapaxes(weighted, 1, 2) @ x + np.eye(D)
            newton = np.linalg.solve(curvature, gradient[..., None])[..., 0]
            self.theta -= newton / np.maximum(np.linalg.norm(newton, axis=-1, keepdims=True), 1)

    def plan(self) -> Array:
        """Return policies (runs, H, S) that are greedy for the perturbed estimates."""
        theta = self.theta + self.noise[:, None] * gaussian(self.answered, self.rng)
        policy = np.zeros((len(theta), H, S), int)
        value = np.zeros((len(theta), S))
        for h in range(H - 1, -1, -1):
            weights = theta
            if h < H - 1:
                mean = np.linalg.solve(self.seen, self.targets @ value[..., None])[..., 0]
                weights = theta + mean + self.noise[:, None] * gaussian(self.seen, self.rng)
            largest = 3.0 * (H - h)
            Q = np.clip(np.einsum("sad,rd->rsa", self.world.features, weights), -largest, largest)
            policy[:, h], value = Q.argmax(-1), Q.max(-1)
        return policy

    def learn(self, trajectories: list[tuple[Array, Array, Array]], draws: Array) -> None:
        """Ask about a pair of trajectories where that is worth it; learn the steps of both."""
        runs = np.arange(len(self.theta))
        sums = []
        for states, actions, after in trajectories:
            phi = self.world.features[states, actions]
            sums.append((phi.sum(1), self.world.rewards[states, actions].sum(1)))
            self.seen += np.swapaxes(phi, 1, 2) @ phi
            for h in range(H):
                self.targets[runs, :, after[:, h]] += phi[:, h]
        x = sums[0][0] - sums[1][0]
        asked = disagreement(x, self.answered) > self.epsilon
        preferred = draws < 1 / (1 + np.exp(-SHARPNESS * (sums[0][1] - sums[1][1])))
        x = np.where(asked[:, None], x, 0)
        self.answered += x[:, :, None] * x[:, None]
        self.pairs[:, self.count], self.answers[:, self.count] = x, np.where(asked, preferred, 0.5)
        self.questions, self.count = self.questions + asked, self.count + 1


def check_disagreement(rng: np.random.Generator) -> None:
    """The closed form against 10^5 samples."""
    root = rng.standard_normal((1, D, D))
    precision, x = np.eye(D) + root @ np.swapaxes(root, 1, 2), rng.standard_normal((1, D))
    a, b = (gaussian(np.repeat(precision, 100_000, 0), rng) for _ in range(2))
    sampled = NOISE * np.abs((a - b) @ x[0]).mean()
    assert abs(sampled / disagreement(x, precision)[0] - 1) <= 0.01


def main(options: Options) -> None:
    world, rng = World.random(), np.random.default_rng(1)
    check_disagreement(rng)
    best = world.optimum()
    names = [f"epsilon {epsilon}" for epsilon in EPSILONS] + ["without noise"]
    epsilon = np.repeat([*EPSILONS, 0.0], options.seeds)
    noise = np.repeat([NOISE] * len(EPSILONS) + [0.0], options.seeds)
    learners = Learners(world, noise, epsilon, options.episodes, rng)
    previous, regret = learners.plan(), []
    with progress(options.episodes, "episodes") as bar:
        for _ in range(options.episodes):
            learners.fit()
            policy = learners.plan()
            learners.learn([world.play(p, rng) for p in (policy, previous)], rng.random(len(noise)))
            regret.append(2 * best - world.value(policy) - world.value(previous))
            previous = policy
            bar.update()
    at_random = 2 * best - 2 * world.value(rng.integers(A, size=(2000, H, S))).mean()
    total = np.cumsum(regret, axis=0).reshape(options.episodes, len(names), options.seeds).mean(-1)
    questions = learners.questions.reshape(len(names), -1).mean(-1)
    report(options, best, dict(zip(names, total.T, strict=True)), dict(zip(names, questions, strict=True)), at_random)


def report(
    options: Options, best: float, total: dict[str, Array], questions: dict[str, float], at_random: float
) -> None:
    T = options.episodes
    marks = np.array([T // 16, T // 8, T // 4, T // 2, T])
    slope = {name: np.polyfit(np.log(marks), np.log(curve[marks - 1]), 1)[0] for name, curve in total.items()}
    print(f"optimal value {best:.3f}; regret after {', '.join(map(str, marks))} episodes, slope, questions")
    for name, curve in total.items():
        print(
            f"{name:14}" + "".join(f"{x:7.0f}" for x in curve[marks - 1]),
            f"  {slope[name]:.2f}  {questions[name]:6.0f}",
        )
    print(f"{'random':14}{at_random * T:35.0f}")
    all_asked, some_asked = total["epsilon 0.0"][-1], total["epsilon 0.05"][-1]
    order = [questions[f"epsilon {epsilon}"] for epsilon in EPSILONS]
    assert questions["epsilon 0.0"] >= T - 1 and order == sorted(order, reverse=True)
    if T >= 2000:
        assert abs(best - 5.065) < 5e-4
        assert slope["epsilon 0.0"] <= 0.5
        assert all_asked <= min(0.75 * total["without noise"][-1], 0.1 * at_random * T)
        assert questions["epsilon 0.05"] <= 0.45 * T and some_asked <= 1.15 * all_asked
        ends = [total[f"epsilon {epsilon}"][-1] for epsilon in EPSILONS]
        assert all(later >= 0.9 * earlier for earlier, later in pairwise(ends))
    draw(total, questions, at_random, options.figure)


def draw(total: dict[str, Array], questions: dict[str, float], at_random: float, path: Path) -> None:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    t = np.arange(1, len(total["without noise"]) + 1)
    left.loglog(t, at_random * t, color=OTHERS, label="random policies")
    for name, color in (("without noise", THEIRS), ("epsilon 0.0", OURS), ("epsilon 0.05", "tab:blue")):
        left.loglog(t, total[name], color=color, label=name)
    left.set(xlabel="episodes", ylabel="regret")
    left.legend(fontsize=8)
    ends = [(questions[f"epsilon {e}"], total[f"epsilon {e}"][-1]) for e in EPSILONS]
    right.loglog(*np.transpose(ends), "o-", color=OURS)
    for epsilon, end in zip(EPSILONS, ends, strict=True):
        right.annotate(f"  {epsilon}", end, fontsize=8)
    right.set(xlabel="questions asked", ylabel="regret at the end", title="by epsilon")
    save(figure, path)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
