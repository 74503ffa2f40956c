"""Prompts worth their rollouts: drawing predicted difficulties gives 1.35 times uniform's share of useful groups.

A group of rollouts of a prompt teaches a policy only if some succeed and some fail. MoPPS predicts from earlier
rollouts alone which prompts do: it keeps a Beta distribution of each prompt's success rate, which forgets as the
policy improves, draws from those of 256 candidates, and takes the 64 whose draws are nearest to 1/2. At no extra
rollout the share of useful groups rises from .46 to .66 (a selector that knew all success rates would have .92), and
the means of the distributions rank all prompts as the true rates do, with correlation .8.

DART builds a data set instead: correct answers of a model, as many trials as it takes. With 52 trials of each
question ("vanilla") a quarter of the hardest tenth has no answer. "Uniform" goes on until each question has 40
correct answers, "Prop2Diff" until it has a number proportional to its fail rate, at most 192, both to 2048 trials;
.03 of the hardest tenth is then left, whose share of the answers grows from .01 to .08 and .26. Two parameters of the
distribution of 15,000 pass rates are fitted to the three published sizes, 590,000, 591,000 and 585,000, which come
out within 1 %. The simulated answers, trials and covered questions are within four standard errors of closed forms.

    python examples/papers/prompt_difficulty.py  # seconds; writes prompt_difficulty.png next to this file

:Paper: Can Prompt Difficulty be Online Predicted for Accelerating RL Finetuning of Reasoning Models? (2025), arXiv
    2507.04632; DART-Math: Difficulty-Aware Rejection Tuning for Mathematical Problem-Solving (2024), arXiv 2407.13690
:Shows: the share of prompts with successes and failures and the rank correlation of MoPPS; the sizes, coverage and
    difficulty of DART's two data sets and of plain rejection sampling
:Does not show: the trained models, in which both papers measure their gain; success rates come from a logistic model
:Starts from: feedback
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from _bandits import BetaForget
from _paper import OTHERS, OURS, command_line, figure_option, option, save
from matplotlib import pyplot

PROMPTS, CANDIDATES, BATCH, ROLLOUTS, BEGIN = 2000, 256, 64, 8, 20
QUESTIONS, TRIALS, MOST = 15_000, 52, 2048
BETA = (0.59, 0.19)  # the distribution of the pass rates
PUBLISHED = {"vanilla": 590_000, "Uniform": 591_000, "Prop2Diff": 585_000}


@dataclass(frozen=True)
class Options:
    runs: int = option(10, "training runs of each selector", 2)
    steps: int = option(150, "steps of a run")
    figure: Path = figure_option(__file__)


# ---- MoPPS ----------------------------------------------------------------------------------------------------------


def train(select: str, forget: float, steps: int, seed: int) -> tuple[Any, float]:
    """Return the share of useful groups of each step, and the rank correlation of predicted and true rates at the end.

    The logit of each prompt's success rate grows by .03 a step, with noise.
    """
    rng = np.random.default_rng(seed)
    ability = rng.normal(0, 2.5, PROMPTS)
    belief = BetaForget(PROMPTS, forget)
    shares = []
    for _ in range(steps):
        rate = 1 / (1 + np.exp(-ability))
        candidates = rng.choice(PROMPTS, CANDIDATES, replace=False)
        if select == "uniform":
            batch = candidates[:BATCH]
        else:
            guess = rate[candidates] if select == "oracle" else belief.draw(candidates, rng)
            batch = candidates[np.argsort((guess - 0.5) ** 2)[:BATCH]]
        successes = rng.binomial(ROLLOUTS, rate[batch])
        shares.append(((successes > 0) & (successes < ROLLOUTS)).mean())
        belief.add(batch, successes, ROLLOUTS)
        ability += 0.03 + 0.02 * rng.standard_normal(PROMPTS)
    return np.array(shares), float(scipy.stats.spearmanr(belief.mean(), ability).statistic)


def prompt_selection(options: Options) -> dict[str, Any]:
    ways = {"uniform": ("uniform", 0.5), "MoPPS, 1": ("belief", 1.0), "MoPPS, .5": ("belief", 0.5)}
    ways["oracle"] = ("oracle", 0.5)
    curves, shares, ranks = {}, {}, {}
    print(f"{'selector, forgetting':22}{'useful':>8}{'rank correlation':>18}")
    for name, (select, forget) in ways.items():
        runs = [train(select, forget, options.steps, seed) for seed in range(options.runs)]
        curves[name] = np.mean([curve for curve, _ in runs], axis=0)
        shares[name] = np.array([curve[BEGIN:].mean() for curve, _ in runs])
        ranks[name] = np.array([rank for _, rank in runs])
        rank = "" if select == "oracle" else f"{ranks[name].mean():18.3f}"
        print(f"{name:22}{shares[name].mean():8.3f}{rank}")
    for name in ("MoPPS, 1", "MoPPS, .5"):
        assert (shares[name] >= 1.35 * shares["uniform"]).all() and (ranks[name] >= 0.75).all()
    return curves


# ---- DART -----------------------------------------------------------------------------------------------------------


def sample(rate: Any, wanted: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """Return the correct answers and trials of each question: until `wanted` are correct, at most MOST trials."""
    correct, trials = np.zeros(len(rate), int), np.zeros(len(rate), int)
    at = np.arange(len(rate))
    while len(at):
        ends = trials[at] + rng.geometric(rate[at])  # with the next correct answer
        correct[at] += ends <= MOST
        trials[at] = np.minimum(ends, MOST)
        at = at[(correct[at] < wanted[at]) & (trials[at] < MOST)]
    return correct, trials


def expected(rate: Any, wanted: Any) -> tuple[Any, Any, Any]:
    """Return the mean and the variance of each question's correct answers, and its mean trials.

    The answers are min(wanted, Bin(MOST, rate)); by Wald's identity, the mean trials are the mean answers / rate.
    """
    mean, square = wanted.astype(float), wanted.astype(float) ** 2
    rare = np.flatnonzero(rate < 2 * wanted.max() / MOST)  # for others, fewer than wanted is less likely than rounding
    count = np.arange(1, wanted.max() + 1)[:, None]
    at_least = np.where(count <= wanted[rare], scipy.stats.binom.sf(count - 1, MOST, rate[rare]), 0)
    mean[rare], square[rare] = at_least.sum(axis=0), ((2 * count - 1) * at_least).sum(axis=0)
    return mean, square - mean**2, mean / rate


def compare(rate: Any, found: tuple[Any, Any], mean: Any, variance: Any, trials: Any, is_covered: Any) -> None:
    """Check that simulated answers, trials and covered questions are within four standard errors of closed forms.

    answers - rate * trials is a martingale, whose variance is rate (1 - rate) times the expected trials.
    """
    correct, tried = found
    for difference, square in (
        (correct - mean, variance),
        (correct - rate * tried, rate * (1 - rate) * trials),
        ((correct > 0) - is_covered, is_covered * (1 - is_covered)),
    ):
        assert abs(difference.sum()) <= 4 * np.sqrt(square.sum())


def data_sets() -> dict[str, Any]:
    """Return the expected correct answers of each question by each way."""
    rate = scipy.stats.beta.ppf((np.arange(QUESTIONS) + 0.5) / QUESTIONS, *BETA).clip(max=1 - 2**-53)
    hard = np.maximum(1, np.rint(192 * (1 - rate) / (1 - rate).max())).astype(int)
    rng, hardest, shares, answers = np.random.default_rng(0), slice(0, QUESTIONS // 10), {}, {}
    print(f"\n{'':12}{'answers':>9}{'published':>11}{'trials':>11}{'covered':>9}{'hardest tenth: covered, share':>32}")
    for name, wanted in {"vanilla": None, "Uniform": np.full(QUESTIONS, 40), "Prop2Diff": hard}.items():
        if wanted is None:
            found = rng.binomial(TRIALS, rate), np.full(QUESTIONS, TRIALS)
            mean, variance, trials = TRIALS * rate, TRIALS * rate * (1 - rate), found[1]
        else:
            found = sample(rate, wanted, rng)
            mean, variance, trials = expected(rate, wanted)
        is_covered = -np.expm1((TRIALS if wanted is None else MOST) * np.log1p(-rate))
        compare(rate, found, mean, variance, trials, is_covered)
        answers[name], shares[name] = mean, (is_covered[hardest].mean(), mean[hardest].sum() / mean.sum())
        print(f"{name:12}{mean.sum():9,.0f}{PUBLISHED[name]:11,}{trials.sum():11,.0f}{is_covered.mean():9.4f}", end="")
        print(f"{shares[name][0]:22.3f}{shares[name][1]:10.3f}")
        for size in (mean.sum(), found[0].sum()):
            assert abs(size - PUBLISHED[name]) <= 0.01 * PUBLISHED[name]
    assert shares["vanilla"][0] <= 0.8 and min(shares["Uniform"][0], shares["Prop2Diff"][0]) >= 0.97
    assert 9 * shares["vanilla"][1] <= shares["Uniform"][1] <= shares["Prop2Diff"][1] / 2
    return answers


def main(options: Options) -> None:
    curves = prompt_selection(options)
    answers = data_sets()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for (name, curve), color in zip(curves.items(), (OTHERS, "tab:blue", OURS, "black"), strict=True):
        left.plot(np.convolve(curve, np.ones(10) / 10, "valid"), color=color, label=name)
    left.set(xlabel="training step", ylabel="useful groups, means of 10 steps", title="Prompts chosen", ylim=(0, 1))
    left.legend(ncols=2)
    tenths = np.array_split(np.arange(QUESTIONS), 10)
    for (name, each), color in zip(answers.items(), (OTHERS, "tab:blue", OURS), strict=True):
        right.semilogy(np.arange(1, 11), [each[tenth].mean() for tenth in tenths], "o-", color=color, label=name)
    right.set(xlabel="tenth of the questions, hardest first", ylabel="correct answers a question", title="Data sets")
    right.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
