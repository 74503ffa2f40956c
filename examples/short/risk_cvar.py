"""The policy whose return after three steps has the largest mean over its worst tenth."""

import numpy as np

from fastiter.mdp import distributional as laws

outcomes = [  # for each state and action: probability, reward and next state of each outcome
    [[(0.5, 1, 0), (0.5, 0, 1)], [(0.8, 2, 1), (0.2, -3, 0)]],
    [[(0.9, 1, 1), (0.1, -1, 0)], [(0.6, 4, 0), (0.4, -4, 1)]],
]
stocks = np.arange(-30.0, 31.0)  # the reward so far, from a first stock on
best = laws.best_tail(outcomes, 0, 3, 0.1, stocks)
first = best.policy[0, 0, np.searchsorted(stocks, best.stock)]
print(f"mean of the worst tenth {best.value:.3f}; first stock {best.stock:.0f}, first action {first}")
