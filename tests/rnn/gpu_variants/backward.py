"""Representative variants of kernels/rnn/backward.cu: plans for an H100, and the other values of their macros."""

from __future__ import annotations

_NAMES = ("ELEMENT", "CELL", "UNITS", "ROW_WARPS", "SPLIT", "COLUMNS", "HELD", "JOINED", "TF32", "RESIDENT", "PLAIN")

CUDA: list[dict[str, object]] = [
    dict(zip((*_NAMES, *more), values, strict=True))
    for more, several in (
        (
            (),
            (
                ("BFloat16", 2, 64, 4, 4, 1, 4, 0, 0, 1, 1),  # 12 heads of 64
                ("BFloat16", 2, 64, 4, 4, 1, 4, 0, 0, 1, 0),
                ("BFloat16", 4, 128, 2, 4, 1, 2, 0, 0, 1, 1),  # 6 heads of 128
                ("Half", 0, 32, 2, 2, 4, 1, 0, 0, 2, 0),
                ("float", 2, 64, 2, 4, 1, 8, 0, 0, 1, 1),
            ),
        ),
        (
            ("TILES",),
            (
                ("BFloat16", 2, 16, 1, 8, 1, 23, 1, 0, 1, 1, 24),  # a head of 768
                ("float", 4, 16, 1, 8, 1, 7, 1, 0, 1, 0, 16),
                ("float", 2, 16, 1, 8, 1, 8, 1, 1, 1, 1, 8),
                ("double", 3, 16, 1, 8, 1, 1, 1, 0, 1, 0, 3),
            ),
        ),
        (
            ("CLUSTER",),
            (
                ("BFloat16", 2, 32, 2, 8, 1, 8, 0, 0, 1, 1, 8),  # 3 heads of 256
                ("BFloat16", 4, 32, 2, 4, 1, 22, 0, 0, 1, 0, 16),  # a head of 512
                ("float", 3, 16, 1, 8, 1, 3, 0, 0, 1, 0, 8),
            ),
        ),
    )
    for values in several
]
