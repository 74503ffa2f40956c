"""omega="auto" during a solution: the plain omega, 1, until a trial of a better one has paid off."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from .auto import Choice
from .spectrum import young

#: The solver's action after a check: go on; keep a copy of x; restore that copy
GO_ON, KEEP, RESTORE = 0, 1, 2

#: Upper bound of the steps of unsuccessful trials, as a fraction of the plain method's steps
SHARE = 0.1
#: The same fraction of the remaining steps with an adopted omega, which has beaten the plain one, if the theory holds
SHARE_OF_ADOPTED = 0.5

#: Upper bound of the predicted number of steps, as a multiple of those taken, if the theory holds (True) or may not
#: (False)
AHEAD = {True: 40.0, False: 1.0}

#: Length of a trial in units of 1 / (2 - omega) steps, in which an omega shows its effect; and the minimum length
LENGTH = {"sor": 6.0, "ssor": 4.0, "jacobi": 0.0}
SHORTEST = {"sor": 5, "ssor": 5, "jacobi": 10}

#: Minimum of the predicted remaining steps for an estimate of omega, which takes as long as tens or hundreds of steps
WORTH = 150.0

#: A trial ends early if its residual has grown by this factor, as does the use of an adopted omega.
HOPELESS, ADOPTED_HOPELESS = 1e3, 10.0


class Trial(NamedTuple):
    """An omega on trial: its first step, the residual and its factor per step there, the previous omega, the length."""

    begin: int
    ratio: float
    factor: float
    omega: float
    length: int


class Adaptive:
    """The choice of omega for the next steps of a solution.

    A solution begins with the plain omega, 1, so that short solutions are not delayed. The factor by which the residual
    falls per step only rises towards 1, as the slow modes remain, so the present factor yields a lower bound of the
    steps that the plain method still needs. A better omega is estimated only if this bound is at least WORTH. It is
    tried, after a copy of x is saved, once its trial takes at most a tenth of these steps. It is adopted if at the end
    of the trial the residual is below the one that the plain factor would have reached; otherwise x and omega are
    restored, and the next trial, of an omega nearer to 1, waits until twice as many steps have been taken. Thus all
    unsuccessful trials together cost at most a tenth of the steps.

    In SOR an omega below the best is raised to the one that the observed factor implies (Young; Hageman and Young):
    factor = lam gives beta = (lam + omega - 1) / (omega sqrt(lam)). At the best omega and above, the factor is
    omega - 1 and oscillates, so it carries no information. The theory holds for consistently ordered matrices only, so
    each larger omega is put on trial, too.
    """

    def __init__(self, method: str, choose: Callable[[], Choice]) -> None:
        self._choose: Callable[[], Choice] | None = choose
        self._is_sure = True  # until there is an estimate
        self.omega = self._plain = 1.0
        self._method, self._raises = method, method == "sor"
        self._candidate: float | None = None
        self._steps: list[int] = []
        self._ratios: list[float] = []
        self._trial: Trial | None = None
        self._adopted: Trial | None = None
        self._spent, self._wait, self._last = 0, 0, 0

    def observe(self, steps: int, ratio: float) -> int:
        """Record the residual relative to its target after ``steps`` steps; return GO_ON, KEEP or RESTORE."""
        every, self._last = steps - self._last, steps
        if self._trial is not None:
            return self._judge(self._trial, steps, ratio)
        adopted = self._adopted
        if adopted is not None and not ratio < ADOPTED_HOPELESS * adopted.ratio:
            return self._take_back(adopted, steps)
        if (
            adopted is not None
            and not self._is_sure
            and ratio > adopted.ratio * adopted.factor ** (steps - adopted.begin)
        ):
            self._go_back(adopted, steps, ratio)
        self._steps.append(steps)
        self._ratios.append(ratio)
        if not 1 < ratio < math.inf or steps < self._wait:
            return GO_ON
        window = self._window(steps)
        factor, before = self._factor(steps, window), self._factor(steps - window, window)
        if factor is None or not self._has_chosen(every, self._needed(steps, ratio, factor)):
            return GO_ON
        challenger = self._challenger(factor, before)
        if challenger is None:
            return GO_ON
        length = every * math.ceil(self._length(challenger) / every)
        share = SHARE_OF_ADOPTED if adopted is not None and self._is_sure else SHARE
        if length > share * self._needed(steps, ratio, factor) - self._spent:
            return GO_ON
        self._trial = Trial(steps, ratio, min(factor, 1.0), self.omega, length)
        self.omega = challenger
        return KEEP

    def _has_chosen(self, every: int, needed: float) -> bool:
        """Estimate omega once a trial and the estimate itself would pay off; return whether there is an estimate."""
        if self._choose is None:
            return True
        if needed < WORTH or every * math.ceil(SHORTEST[self._method] / every) > SHARE * needed:
            return False
        estimate, self._is_sure = self._choose()
        self._candidate = estimate if abs(estimate - self._plain) > 0.01 else None
        self._choose = None
        return True

    def _window(self, steps: int) -> int:
        """The number of steps over which the present factor is measured."""
        if self.omega == self._plain:
            return max(5, (steps - self._steps[0]) // 3)
        return max(10, math.ceil(4 / (2 - self.omega)))

    def _factor(self, last: int, window: int) -> float | None:
        """The residual's factor per step over at least ``window`` steps up to ``last``; None: too few steps so far."""
        first, now = (bisect_right(self._steps, at) - 1 for at in (last - window, last))
        if first < 0:
            return None
        return factor((self._steps[first], self._ratios[first]), (self._steps[now], self._ratios[now]))

    def _challenger(self, lam: float, before: float | None) -> float | None:
        """The omega to try next, if any."""
        is_plain = self.omega == self._plain
        if is_plain and self._candidate is not None:
            return self._candidate
        is_steady = before is not None and 0 < lam < 1 and abs(lam - before) < 0.1 * (1 - lam)
        if self._raises and is_steady and math.log(lam) > 0.4 * math.log(max(self.omega - 1, 1e-300)):
            omega = young((lam + self.omega - 1) / (self.omega * math.sqrt(lam)))
            if omega > self.omega + 0.01 * (2 - self.omega):
                return omega
        adopted = self._adopted
        is_doubtful = self._is_sure and self._method != "jacobi"  # Jacobi's theory is exact
        if is_doubtful and adopted is not None and before is not None and min(lam, before) > adopted.factor:
            return self._plain
        return None

    def _length(self, omega: float) -> int:
        shortest = SHORTEST[self._method]
        if omega == self._plain:  # if another omega was used before: the length after which that one shows its factor
            return max(shortest, self._window(0))
        return max(shortest, math.ceil(LENGTH[self._method] / (2 - omega)))

    def _needed(self, steps: int, ratio: float, lam: float) -> float:
        """A lower bound on the total steps if the residual falls by lam per step now, and more slowly later."""
        taken = steps - self._spent
        promised = math.inf if lam >= 1 else taken + math.log(ratio) / -math.log(max(lam, 1e-300))
        return min(promised, AHEAD[self._is_sure] * taken)

    def _judge(self, trial: Trial, steps: int, ratio: float) -> int:
        taken = steps - trial.begin
        if not ratio < HOPELESS * trial.ratio:
            return self._take_back(trial, steps)
        if taken < trial.length:
            return GO_ON
        if not ratio < trial.ratio * trial.factor**taken:
            return self._take_back(trial, steps)
        self._adopted = None if self.omega == self._plain else trial
        self._trial, self._steps, self._ratios = None, [steps], [ratio]
        return GO_ON

    def _take_back(self, trial: Trial, steps: int) -> int:
        self._spent += steps - trial.begin
        self._go_back(trial, steps, trial.ratio)
        return RESTORE

    def _go_back(self, trial: Trial, steps: int, ratio: float) -> None:
        """Restore the previous omega; the next trial uses one nearer to 1."""
        failed, self.omega, self._trial, self._wait = self.omega, trial.omega, None, 2 * steps
        if self.omega == self._plain:
            self._adopted = None
            if self._method != "jacobi":
                nearer = 2 * failed - 2
                self._candidate = nearer if nearer > 1.05 else None
        self._steps, self._ratios = [steps], [ratio]


def factor(first: tuple[int, float], last: tuple[int, float]) -> float:
    """Return the residual's factor per step between two (steps, residual) pairs; 0 if it is undefined."""
    (s, before), (t, now) = first, last
    if t == s or before <= 0 or now <= 0 or not math.isfinite(now):
        return 0.0
    return math.exp(math.log(now / before) / (t - s))
