"""python -m bench <stem>: named competitors, correctness first, then ratios."""
