"""A walk in unknown wind: the policy whose value in its worst wind is best."""

import numpy as np

from fastiter import experimental, mdp

winds = np.linspace(0, 0.5, 11)
models = [mdp.examples.windy_walk(float(wind)) for wind in winds]
solution = experimental.iwocs(models, 0, atol=1e-8)  # from state 0

for name, policy in {"for no wind": models[0].solve().policy, "against all": solution.policy}.items():
    values = [model.evaluate(policy)[0] for model in models]
    print(f"policy {name}: {min(values):.3f} in its worst wind, {winds[np.argmin(values)]:.2f}")
