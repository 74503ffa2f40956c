"""omega="auto" during a solution: the plain omega until another one has been tried and has paid."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import NamedTuple

from ._spectrum import young

#: What a solver does after a check: go on; keep a copy of x; go back to the copy that it has
GO_ON, KEEP, RESTORE = 0, 1, 2

#: The share of the plain method's steps that trials without success may take
SHARE = 0.1
#: The same of the steps that are left with an omega that has outdone the plain one, where the theory holds
SHARE_OF_ADOPTED = 0.5

#: How many times the steps so far a promise of further ones may be, where the theory holds and where it may not
AHEAD = {True: 40.0, False: 1.0}

#: How many times 1 / (2 - omega) steps a trial takes, in which an omega shows what it can do; and the fewest
LENGTH = {"sor": 6.0, "ssor": 4.0, "jacobi": 0.0}
SHORTEST = {"sor": 5, "ssor": 5, "jacobi": 10}

#: A trial whose residual has grown by this factor ends early, and so does an omega that had been adopted.
HOPELESS, ADOPTED_HOPELESS = 1e3, 10.0


class Trial(NamedTuple):
    """An omega on trial: since which step, the residual and its factor a step before, the omega before, how long."""

    since: int
    ratio: float
    factor: float
    omega: float
    length: int


class Adaptive:
    """Which omega the next steps of a solution have.

    A solution begins with the plain omega, 1, so that one that is short is as short as ever. The factor by which its
    residual falls only rises towards 1, as what is left is what is slow: so the plain method still needs at least the
    steps that the present factor promises. An estimate of a better omega is tried once its trial is at most a tenth of
    these steps, with a copy of x from before. It stays if at the end of the trial the residual is below what the
    plain factor would have left; otherwise x and omega are as before, and the next trial, of an omega nearer to 1,
    waits until twice as many steps have been taken. So all trials without success together cost a tenth.

    In SOR an omega below the best grows to what the observed factor says (Young; Hageman and Young): factor = lam gives
    beta = (lam + omega - 1) / (omega sqrt(lam)). At the best omega and above, the factor is omega - 1 and oscillates,
    and tells nothing. The theory is that of consistently ordered matrices, so each larger omega is on trial, too.
    """

    def __init__(self, method: str, estimate: float, *, is_sure: bool) -> None:
        self._is_sure = is_sure
        self.omega = self._plain = 1.0
        self._method, self._raises = method, method == "sor"
        self._candidate: float | None = estimate if abs(estimate - self._plain) > 0.01 else None
        self._steps: list[int] = []
        self._ratios: list[float] = []
        self._trial: Trial | None = None
        self._adopted: Trial | None = None
        self._spent, self._wait, self._last = 0, 0, 0

    def observe(self, steps: int, ratio: float) -> int:
        """Note the residual over its target after so many steps; return GO_ON, KEEP or RESTORE."""
        every, self._last = steps - self._last, steps
        if self._trial is not None:
            return self._judge(self._trial, steps, ratio)
        kept = self._adopted
        if kept is not None and not ratio < ADOPTED_HOPELESS * kept.ratio:
            return self._take_back(kept, steps)
        if kept is not None and not self._is_sure and ratio > kept.ratio * kept.factor ** (steps - kept.since):
            self._go_back(kept, steps, ratio)
        self._steps.append(steps)
        self._ratios.append(ratio)
        if not 1 < ratio < math.inf or steps < self._wait:
            return GO_ON
        window = self._window(steps)
        factor, before = self._factor(steps, window), self._factor(steps - window, window)
        if factor is None:
            return GO_ON
        challenger = self._challenger(factor, before)
        if challenger is None:
            return GO_ON
        length = every * math.ceil(self._length(challenger) / every)
        share = SHARE_OF_ADOPTED if kept is not None and self._is_sure else SHARE
        if length > share * self._needed(steps, ratio, factor) - self._spent:
            return GO_ON
        self._trial = Trial(steps, ratio, min(factor, 1.0), self.omega, length)
        self.omega = challenger
        return KEEP

    def _window(self, steps: int) -> int:
        """Over how many steps the present factor is taken."""
        if self.omega == self._plain:
            return max(5, (steps - self._steps[0]) // 3)
        return max(10, math.ceil(4 / (2 - self.omega)))

    def _factor(self, last: int, window: int) -> float | None:
        """By how much the residual fell a step, over ``window`` steps or more until ``last``; None: not so many yet."""
        first, now = (bisect_right(self._steps, at) - 1 for at in (last - window, last))
        if first < 0:
            return None
        return factor((self._steps[first], self._ratios[first]), (self._steps[now], self._ratios[now]))

    def _challenger(self, lam: float, before: float | None) -> float | None:
        """The omega that deserves a trial, if any."""
        is_plain = self.omega == self._plain
        if is_plain and self._candidate is not None:
            return self._candidate
        is_steady = before is not None and 0 < lam < 1 and abs(lam - before) < 0.1 * (1 - lam)
        if self._raises and is_steady and math.log(lam) > 0.4 * math.log(max(self.omega - 1, 1e-300)):
            omega = young((lam + self.omega - 1) / (self.omega * math.sqrt(lam)))
            if omega > self.omega + 0.01 * (2 - self.omega):
                return omega
        kept = self._adopted
        is_doubtful = self._is_sure and self._method != "jacobi"  # Jacobi's theory is exact
        if is_doubtful and kept is not None and before is not None and min(lam, before) > kept.factor:
            return self._plain
        return None

    def _length(self, omega: float) -> int:
        at_least = SHORTEST[self._method]
        if omega == self._plain:  # after another: as long as that one takes to show its factor
            return max(at_least, self._window(0))
        return max(at_least, math.ceil(LENGTH[self._method] / (2 - omega)))

    def _needed(self, steps: int, ratio: float, lam: float) -> float:
        """At least so many steps are needed in all where the residual falls by lam a step, and later more slowly."""
        taken = steps - self._spent
        promised = math.inf if lam >= 1 else taken + math.log(ratio) / -math.log(max(lam, 1e-300))
        return min(promised, AHEAD[self._is_sure] * taken)

    def _judge(self, trial: Trial, steps: int, ratio: float) -> int:
        taken = steps - trial.since
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
        self._spent += steps - trial.since
        self._go_back(trial, steps, trial.ratio)
        return RESTORE

    def _go_back(self, trial: Trial, steps: int, ratio: float) -> None:
        """Have the omega from before; the next trial is of one that is nearer to 1."""
        failed, self.omega, self._trial, self._wait = self.omega, trial.omega, None, 2 * steps
        if self.omega == self._plain:
            self._adopted = None
            if self._method != "jacobi":
                nearer = 2 * failed - 2
                self._candidate = nearer if nearer > 1.05 else None
        self._steps, self._ratios = [steps], [ratio]


def factor(first: tuple[int, float], last: tuple[int, float]) -> float:
    """Return by how much the residual falls a step, from (steps, residual) twice; 0 where that says nothing."""
    (s, before), (t, now) = first, last
    if t == s or before <= 0 or now <= 0 or not math.isfinite(now):
        return 0.0
    return math.exp(math.log(now / before) / (t - s))
