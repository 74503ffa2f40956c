"""Representative variants of kernels/relax/kaczmarz.cu."""

from __future__ import annotations

CUDA: list[dict[str, object]] = [
    {"MATRIX": matrix, "COLUMNS": columns, "BLOCK_ROWS": 1, "RESIDENT": resident, "VECTOR": vector}
    for matrix, vector, columns, resident in (
        ("float", "double", 1, 4),
        ("double", "double", 1, 4),
        ("double", "double", 4, 2),
        ("Complex", "Complex", 4, 2),
    )
]
