"""RiverSwim: the largest average reward a step, and the policy that earns it."""

from fastiter import mdp

river = mdp.examples.riverswim(6)
solution = mdp.average(river, atol=1e-10)
print(f"{solution.gain:.6f} a step, by the actions {solution.policy}")
