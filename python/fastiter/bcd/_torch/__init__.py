"""Block coordinate descent on tensors."""
