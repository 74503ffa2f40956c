"""A slippery grid world: values and a policy, with a bound on their error."""

from fastiter import mdp

problem = mdp.examples.gridworld(20, 0.99)  # 20 x 20 cells; the goal is a corner, each step costs 1
solution = problem.solve(atol=1e-6)
print(f"{solution.method}: {solution.reason} after {solution.steps} sweeps")
print(f"value of the first cell: {solution.value[0]:.4f}, error at most {solution.residual:.1e}")
print(solution.policy.reshape(20, 20)[:3, :10])
