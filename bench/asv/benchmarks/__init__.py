"""Benchmarks of fastiter against its own past, by asv: one cheap case a family, on one thread."""
