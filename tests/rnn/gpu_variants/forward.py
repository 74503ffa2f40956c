"""Representative variants of kernels/rnn/forward.cu: plans for an H100, and the other values of their macros."""

from __future__ import annotations

_NAMES = ("ELEMENT", "CELL", "UNITS", "ROW_WARPS", "SPLIT", "COLUMNS", "HELD", "JOINED", "TF32", "RESIDENT", "PLAIN")

CUDA: list[dict[str, object]] = [
    dict(zip((*_NAMES, *more), values, strict=True))
    for more, several in (
        (
            (),
            (
                ("BFloat16", 2, 64, 16, 1, 1, 4, 0, 0, 1, 1),  # 12 heads of 64
                ("BFloat16", 2, 64, 16, 1, 1, 4, 0, 0, 1, 0),
                ("BFloat16", 4, 128, 16, 1, 1, 8, 0, 0, 1, 1),  # 6 heads of 128, on a card without clusters
                ("Half", 0, 32, 2, 2, 4, 1, 0, 0, 2, 0),
                ("float", 2, 64, 16, 1, 1, 1, 0, 0, 1, 1),
            ),
        ),
        (
            ("TILES",),
            (
                ("BFloat16", 2, 16, 4, 2, 1, 25, 1, 0, 1, 1, 32),  # a head of 1024
                ("float", 4, 12, 1, 8, 1, 6, 1, 0, 1, 0, 4),
                ("float", 2, 16, 1, 8, 1, 8, 1, 1, 1, 1, 2),
                ("double", 3, 16, 1, 8, 1, 1, 1, 0, 1, 0, 1),
            ),
        ),
        (("TILES", "TAGGED"), (("BFloat16", 2, 16, 4, 2, 1, 22, 1, 0, 1, 1, 28, 1),)),  # a head of 768
        (
            ("CLUSTER",),
            (
                ("BFloat16", 2, 32, 8, 1, 1, 16, 0, 0, 1, 1, 8),  # 3 heads of 256
                ("BFloat16", 4, 32, 8, 1, 1, 23, 0, 0, 1, 0, 16),  # a head of 512
                ("float", 3, 32, 2, 4, 1, 4, 0, 0, 1, 0, 4),
            ),
        ),
    )
    for values in several
]
