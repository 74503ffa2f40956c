"""Parts of the docstrings of functions whose steps are sharded over ranks."""

from __future__ import annotations

#: The final state of a pipeline, and the parameters of every function with sharded steps
PARTS = {
    "final": """
        state : tuple of Tensor
            The final states, on the rank with the last step of the sequence and zero on the others: their sum over the
            ranks is the result of one process.
    """,
    "group": """
        group : ProcessGroup or DeviceMesh, optional
            The ranks, in the order of the steps; a mesh has one axis. The default group if None.
    """,
    "exchange": """
        exchange : {"auto", "pipeline", "scan", "speculative"}
            "pipeline": a rank computes one chunk of the independent rows or channels after another, each when its state
            has arrived. "scan": each rank reduces its steps to one affine map, the maps are exchanged in ceil(log2 P)
            rounds, and then the steps are computed. "speculative" (linear_scan on CPUs without ``lengths`` and
            ``cu_seqlens``): each rank computes its steps from a zero state, and repeats the leading steps whose results
            differ once its state has arrived. "auto" is "speculative" if a sample of the factors indicates that these
            are a small part of every shard, else the pipeline if it has at least P - 1 chunks, else the scan.
    """,
    "chunks": """
        chunks : int, optional
            The maximum number of chunks of the pipeline; by default 8 for each rank after the first, in ``linear_scan``
            with at least 128 channels per chunk, and on two ranks with CPUs at least 4096 bytes of each step.
    """,
    "state": """
        state : Tensor or tuple of Tensor, optional
            As for one process, the same on every rank. It is read where the sequence starts, and its gradient is zero
            on the other ranks: the sum over the ranks is that of one process.
    """,
    "reverse": """
        reverse : bool
            Run from the last step of the last rank to the first step of the first.
    """,
    "reset": """
        reset : bool Tensor (B, T) or (T,), optional
            True where a new sequence begins, for the steps of this rank.
    """,
    "lengths": """
        lengths : integers (B,), optional
            Valid steps of each row over all ranks, the same on every rank.
    """,
    "cu_seqlens": """
        cu_seqlens : integers (S + 1,), optional
            S sequences packed into one row (B = 1) over all ranks, the same on every rank: sequence s is the steps
            cu_seqlens[s] to cu_seqlens[s + 1], and may cross any number of borders.
    """,
    "errors": """
        TypeError, ValueError
            For a wrong type or dtype; for a wrong shape or value; and on every rank, before data is exchanged, for
            arguments that differ between ranks or that another rank has refused.
        BackendError
            For a device without kernels, or without a backend in the group.
        RuntimeError
            If torch.distributed is not initialized; CommunicationError, a subclass, if a rank does not respond.
    """,
    "last": """
        last : Tensor or tuple of Tensor
            The final states, on the rank with the last step of the sequence (the last rank for sequences that are not
            packed) and zero on the others: their sum over the ranks is the result of one process.
    """,
}
