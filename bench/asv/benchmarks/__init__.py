"""Benchmarks of fastiter against its earlier versions, by asv: one cheap case per family, on one thread."""
