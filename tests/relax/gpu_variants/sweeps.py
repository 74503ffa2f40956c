"""Representative variants of kernels/relax/sweeps.cu."""

from __future__ import annotations

_NUMBERS = [("float", "float"), ("float", "double"), ("double", "double"), ("Complex", "Complex")]


def _rows_and_blocks() -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for matrix, vector in _NUMBERS:
        for columns, rows in ((1, 1), (4, 1), *(((4, 2),) if matrix == "double" else ())):
            resident = 4 if columns == rows == 1 and matrix != "Complex" else 2
            found.append({"MATRIX": matrix, "COLUMNS": columns, "BLOCK_ROWS": rows, "RESIDENT": resident})
            found[-1]["VECTOR"] = vector
        if matrix in ("double", "Complex"):
            found.append({"MATRIX": matrix, "COLUMNS": 1, "BLOCK_ROWS": 1, "RESIDENT": 4 if matrix == "double" else 2})
            found[-1] |= {"VECTOR": vector, "SYSTEMS": 1}
    return found


CUDA = _rows_and_blocks()
