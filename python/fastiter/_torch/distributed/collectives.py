"""Messages between the ranks of a process group: agreement on arguments, neighbours, prefixes, and their cost.

Everything uses torch.distributed. Any failure there, including a timeout, is raised as a :class:`CommunicationError`
with the name of the function.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..._backend import BackendError

#: Alignment in bytes of each tensor in a message, so that every dtype can be viewed in place
ALIGNMENT = 16
_LONGEST_DESCRIPTION = 4096


class CommunicationError(RuntimeError):
    """A rank of the group did not respond: it has died, hangs, has raised, or does not make the same calls.

    Raised on the ranks that wait for it, at the latest after the timeout of the process group. The group is then in an
    undefined state: destroy it.

    See Also
    --------
    linear_scan : One of the functions that raise it.

    Examples
    --------
    >>> import fastiter.torch
    >>> def step(a, x):  # on each rank
    ...     try:
    ...         return fastiter.torch.distributed.linear_scan(a, x)
    ...     except fastiter.torch.distributed.CommunicationError as error:
    ...         raise SystemExit(str(error)) from None  # torchrun starts all ranks again
    """


@dataclass
class Traffic:
    """The messages that this rank has sent since :func:`record_traffic`.

    Attributes
    ----------
    rounds : int
        Number of times that the rank has waited for others: for a collective, for a message, or for both parts of a
        swap.
    messages : int
        Number of point-to-point messages sent.
    bytes : int
        Bytes in these messages, and bytes that this rank has contributed to collectives.

    See Also
    --------
    record_traffic : Counts the messages sent in a block.

    Examples
    --------
    >>> import fastiter.torch
    >>> fastiter.torch.distributed.Traffic(rounds=2, messages=1, bytes=64).bytes
    64
    """

    rounds: int = 0
    messages: int = 0
    bytes: int = 0


_RECORDS: ContextVar[tuple[Traffic, ...]] = ContextVar("fastiter_traffic", default=())


@contextmanager
def record_traffic() -> Iterator[Traffic]:
    """Count the messages that this rank sends in a ``with`` block, in the same thread.

    Yields
    ------
    Traffic
        The counts, updated while the block runs.

    See Also
    --------
    Traffic : The counts.

    Examples
    --------
    >>> import fastiter.torch
    >>> with fastiter.torch.distributed.record_traffic() as sent:
    ...     pass  # functions of fastiter.torch.distributed, and their backward passes
    >>> sent.bytes
    0
    """
    traffic = Traffic()
    token = _RECORDS.set((*_RECORDS.get(), traffic))
    try:
        yield traffic
    finally:
        _RECORDS.reset(token)


def _count(rounds: int, messages: int, number: int) -> None:
    for record in _RECORDS.get():
        record.rounds += rounds
        record.messages += messages
        record.bytes += number


class Layout(NamedTuple):
    """The shapes and dtypes of the tensors in a message, and their byte offsets."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    offsets: tuple[int, ...]

    @staticmethod
    def like(tensors: Sequence[Tensor]) -> Layout:
        """Return the layout of a message with tensors like these."""
        ends = [0]
        for x in tensors:
            ends.append(ends[-1] + math.ceil(x.numel() * x.element_size() / ALIGNMENT) * ALIGNMENT)
        return Layout(tuple(tuple(x.shape) for x in tensors), tuple(x.dtype for x in tensors), tuple(ends))

    def packed(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the message, (bytes,) of uint8."""
        message = torch.zeros(self.offsets[-1], dtype=torch.uint8, device=tensors[0].device)
        for part, x in zip(self.parts(message), tensors, strict=True):
            part.copy_(x)
        return message

    def parts(self, message: Tensor) -> list[Tensor]:
        """Return the tensors of a message, which share its memory."""
        result = []
        for shape, dtype, start in zip(self.shapes, self.dtypes, self.offsets, strict=False):
            stop = start + math.prod(shape) * dtype.itemsize
            result.append(message[start:stop].view(dtype).view(shape))
        return result


class Agreement(NamedTuple):
    """The steps of each rank, whether any rank needs a gradient, and whether all ranks forget their initial states."""

    steps: tuple[int, ...]
    needs_grad: bool
    forget: bool


class Ranks:
    """The ranks of a process group for one call of a function.

    Parameters
    ----------
    function : str
        The name of the public function, for error messages.
    group : ProcessGroup, DeviceMesh or None
        The group, a mesh with one axis, or the default group.
    """

    def __init__(self, function: str, group: Any) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError(f"{function}: torch.distributed must be initialized, call init_process_group before")
        self.function = function
        self.group = _process_group(function, group)
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)
        if self.rank < 0:
            raise ValueError(f"{function}: group must contain this rank, got a group without it")

    def agree(
        self,
        arguments: Mapping[str, str],
        steps: int,
        needs_grad: bool,
        failure: Exception | None,
        forgets: bool = False,
    ) -> Agreement:
        """Compare a digest of the arguments with all other ranks, and exchange the numbers of steps: one round.

        ``forgets`` is whether this rank's final state hardly depends on its initial state. ``failure`` is an error that
        this rank's checks have raised: it is raised again, and the other ranks report it. If ranks differ, a second
        round exchanges the arguments themselves, and every rank raises the same error.
        """
        text = "\0".join(f"{name}\1{value}" for name, value in arguments.items())
        if failure is not None:
            text = str(failure)
        encoded = text.encode()[:_LONGEST_DESCRIPTION]
        digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
        own = torch.tensor([digest, failure is not None, needs_grad, steps, len(encoded), forgets], dtype=torch.int64)
        try:
            every = [[int(x) for x in row] for row in self.all_gather(own)]
            failed = [rank for rank, row in enumerate(every) if row[1]]
            texts = []
            if failed or any(row[0] != digest for row in every):
                texts = self._texts(encoded, [row[4] for row in every])
        except CommunicationError as error:
            raise error if failure is None else failure from None
        if failure is not None:
            raise failure
        if failed:
            others = "" if len(failed) == 1 else f" (and {len(failed) - 1} more)"
            raise ValueError(f"{self.function}: rank {failed[0]}{others} refused its arguments: {texts[failed[0]]}")
        if texts:
            raise ValueError(f"{self.function}: {_difference(texts)}")
        return Agreement(tuple(row[3] for row in every), any(row[2] for row in every), all(row[5] for row in every))

    def _texts(self, own: bytes, lengths: Sequence[int]) -> list[str]:
        padded = own.ljust(max(lengths), b"\0")
        rows = self.all_gather(torch.tensor(list(padded), dtype=torch.uint8))
        return [
            bytes(row.tolist())[:length].decode(errors="replace") for row, length in zip(rows, lengths, strict=True)
        ]

    def all_gather(self, own: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks on the CPU, which must have the same shape and dtype: one round."""
        own = own.to(self._device())
        every = [torch.empty_like(own) for _ in range(self.size)]
        self.all_gather_into(every, own)
        return [x.cpu() for x in every]

    def all_gather_into(self, every: Sequence[Tensor], own: Tensor) -> None:
        """Gather the tensors ``own`` of all ranks into ``every``, which have the same shape and dtype: one round."""
        if self.size > 1:
            _count(1, 0, own.numel() * own.element_size())
        with self._one_error("the ranks of the group"):
            dist.all_gather(list(every), own, group=self.group)

    def check_device(self, device: torch.device) -> None:
        """Check that the group can send tensors on this device."""
        backends = str(dist.get_backend_config(self.group))
        if self.size > 1 and f"{device.type}:" not in backends:
            raise BackendError(
                f"{self.function}: group must have a backend for tensors on {device.type}, got one with {backends}"
            )

    def _device(self) -> torch.device:
        backends = str(dist.get_backend_config(self.group))
        return torch.device("cpu") if "cpu:" in backends else torch.device("cuda", torch.cuda.current_device())

    def swap(self, to: int | None, message: Tensor | None, source: int | None, into: Tensor | None) -> None:
        """Send a message to one rank of the group and receive one from another concurrently; None omits either."""
        works = []
        names = []
        with self._one_error(f"rank {to if source is None else source}"):
            if to is not None and message is not None and message.numel():
                works.append(dist.isend(message, self._global(to), group=self.group))
                names.append(to)
                _count(0, 1, message.numel() * message.element_size())
            if source is not None and into is not None and into.numel():
                received = dist.irecv(into, self._global(source), group=self.group)
                works.append(received)
                names.append(source)
        for work, name in reversed(list(zip(works, names, strict=True))):
            self.wait(work, name)
        _count(1 if works else 0, 0, 0)

    def start(self, to: int, message: Tensor) -> Any:
        """Start to send a message; pass the result to :meth:`wait`. The message must not change until then."""
        if not message.numel():
            return None
        _count(0, 1, message.numel() * message.element_size())
        with self._one_error(f"rank {to}"):
            return dist.isend(message, self._global(to), group=self.group)

    def start_receive(self, source: int, into: Tensor) -> Any:
        """Start to receive a message into ``into``; pass the result to :meth:`wait`."""
        if not into.numel():
            return None
        with self._one_error(f"rank {source}"):
            return dist.irecv(into, self._global(source), group=self.group)

    def wait_all(self, works: Sequence[tuple[Any, int]]) -> None:
        """Wait for messages to and from ranks that have been started together: one round."""
        for work, other in works:
            self.wait(work, other)
        _count(1 if any(work is not None for work, _ in works) else 0, 0, 0)

    def wait(self, work: Any, other: int) -> None:
        """Wait until a message to or from a rank is complete."""
        with self._one_error(f"rank {other}"):
            if work is not None:
                work.wait()

    def _global(self, rank: int) -> int:
        return dist.get_global_rank(self.group, rank)

    @contextmanager
    def _one_error(self, other: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).split("\n")[0]
            raise CommunicationError(
                f"{self.function}: rank {self.rank} of {self.size} got no answer from {other}, which has died, hangs, "
                f"has raised or makes other calls ({reason})"
            ) from error


def _process_group(function: str, group: Any) -> Any:
    from torch.distributed.device_mesh import DeviceMesh

    if group is None:
        return dist.group.WORLD
    if isinstance(group, DeviceMesh):
        if group.ndim != 1:
            raise ValueError(f"{function}: group must be a DeviceMesh with 1 axis, got one with {group.ndim} axes")
        return group.get_group()
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(f"{function}: group must contain this rank, got a group without it")
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"{function}: group must be a ProcessGroup, a DeviceMesh or None, got {type(group).__qualname__}"
        )
    return group


def _difference(texts: Sequence[str]) -> str:
    """Return the first difference between the first rank and the first rank that differs from it."""
    rows = [dict(pair.split("\1", 1) for pair in text.split("\0") if "\1" in pair) for text in texts]
    rank, other = next((at, row) for at, row in enumerate(rows) if texts[at] != texts[0])
    for name in dict.fromkeys([*rows[0], *other]):
        first, second = rows[0].get(name, "nothing"), other.get(name, "nothing")
        if first != second:
            return f"{name} must be the same on every rank, got {first} on rank 0 and {second} on rank {rank}"
    return f"the arguments must be the same on every rank, got others on rank {rank} than on rank 0"


class Line:
    """The ranks in the order of a sequence's steps: from the first rank or, in reverse, from the last."""

    def __init__(self, ranks: Ranks, reverse: bool) -> None:
        self.ranks, self.reverse, self.size = ranks, reverse, ranks.size
        self.position = self.size - 1 - ranks.rank if reverse else ranks.rank

    def turned(self) -> Line:
        """Return the same ranks in the opposite order, which is that of gradients."""
        return Line(self.ranks, not self.reverse)

    def rank(self, position: int) -> int:
        """Return the rank at a position."""
        return self.size - 1 - position if self.reverse else position

    @property
    def is_first(self) -> bool:
        """Whether no rank comes before."""
        return self.position == 0

    @property
    def is_last(self) -> bool:
        """Whether no rank comes after."""
        return self.position == self.size - 1

    def expect(self, like: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
        """Start to receive tensors from the previous rank; the returned function waits for them.

        gloo sends a message only after the receiver has announced that it waits: announcing it early shortens the wait.
        """
        layout, source = Layout.like(like), self.rank(self.position - 1)
        message = like[0].new_empty(layout.offsets[-1], dtype=torch.uint8)
        work = self.ranks.start_receive(source, message)

        def wait() -> list[Tensor]:
            self.ranks.wait_all([(work, source)])
            return layout.parts(message)

        return wait

    def send(self, tensors: Sequence[Tensor]) -> Callable[[], None]:
        """Start to send tensors to the next rank; the returned function waits for completion."""
        to, message = self.rank(self.position + 1), Layout.like(tensors).packed(tensors)
        work = self.ranks.start(to, message)

        def wait() -> None:
            self.ranks.wait(work, to)
            message.numel()  # keeps the memory alive until the message has been sent

        return wait

    def exclusive_prefix(
        self, own: list[Tensor], combine: Callable[[list[Tensor], list[Tensor]], list[Tensor]]
    ) -> list[Tensor] | None:
        """Combine the tensors of all ranks before this one, in ceil(log2 P) rounds; None on the first rank.

        ``combine(later, earlier)`` is associative. All ranks pass tensors of the same shapes. In the round with
        distance d, a rank sends the combination of up to d ranks, of which it is the last, to the rank d positions
        after it.
        """
        layout = Layout.like(own)
        before: list[Tensor] | None = None
        distance = 1
        while distance < self.size:
            after, earlier = self.position + distance, self.position - distance
            message = layout.packed(own) if after < self.size else None
            into = own[0].new_empty(layout.offsets[-1], dtype=torch.uint8) if earlier >= 0 else None
            to = self.rank(after) if after < self.size else None
            self.ranks.swap(to, message, self.rank(earlier) if earlier >= 0 else None, into)
            if into is not None:
                received = layout.parts(into)
                before = received if before is None else combine(before, received)
                if self.position + 2 * distance < self.size:  # otherwise it is not needed any more
                    own = combine(own, received)
            distance *= 2
        return before
