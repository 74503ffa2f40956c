"""Models of transformers as plans, and the states of plans as their caches."""
