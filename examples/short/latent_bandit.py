"""Two kinds of bandits that look alike: the best reward of eight pulls if the kind is hidden, and if it is known."""

import numpy as np

from fastiter import experimental

means = np.array([[0.8, 0.5, 0.2], [0.1, 0.5, 0.9]])  # three arms, for each kind
half = np.array([0.5, 0.5])  # the belief at the start

vectors = experimental.alpha_vectors(experimental.LatentMDP.bandit(means), 8)
hidden, known = float((vectors[8][0] @ half).max()), 8 * float(half @ means.max(axis=1))
print(f"hidden {hidden:.4f}, known {known:.4f}")
