"""TCP proxies between the ranks of a gloo group, which delay, fragment, stall and close its connections.

A rank reads the addresses of the others from the store of the group. Here these are the addresses of proxies in the
rank's own process, so that each connection goes through one. Each rank has its own address, 127.0.0.2 and so on,
because gloo compares addresses to choose which of two ranks connects.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from datetime import timedelta
from typing import Any
from unittest import mock

import torch.distributed as dist
from torch.distributed import distributed_c10d

_LONGEST_DELAY = 0.002
_LONGEST_FRAGMENT = 4096


def _ip(rank: int) -> str:
    return f"127.0.0.{rank + 2}"


class Proxy:
    """Forwards connections to an address, in fragments of random lengths after random delays.

    Parameters
    ----------
    ip, port : str, int
        The address and port at which the rank listens.
    seed : int
        The seed of the lengths and delays.
    """

    def __init__(self, ip: str, port: int, seed: int) -> None:
        self._to, self._random = (ip, port), random.Random(seed)
        self._is_held, self._sockets, self.passed = False, list[socket.socket](), 0
        self._listener = socket.create_server((ip, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        """Stop forwarding without a signal to either side, like a network that is down."""
        self._is_held = True

    def end(self) -> None:
        """Reset all connections, like a process or a firewall that closes them."""
        for one in self._sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(OSError):  # the other side may have closed it
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            far = socket.create_connection(self._to)
            self._sockets += [near, far]
            for source, to in ((near, far), (far, near)):
                to.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                times = random.Random(self._random.random())
                threading.Thread(target=self._pass, args=(source, to, times), daemon=True).start()

    def _pass(self, source: socket.socket, to: socket.socket, times: random.Random) -> None:
        try:
            while data := source.recv(times.randint(1, _LONGEST_FRAGMENT)):
                time.sleep(times.uniform(0, _LONGEST_DELAY))
                if self._is_held:
                    return
                to.sendall(data)
                self.passed += len(data)
            to.shutdown(socket.SHUT_WR)
        except OSError:
            return  # closed


class _Store(dist.Store):  # type: ignore[misc, name-defined]
    """A store that replaces the addresses of other ranks by those of proxies."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        super().__init__()
        self._store, self._rank, self._size = store, rank, size
        self.proxies: dict[int, list[Proxy]] = {other: [] for other in range(size) if other != rank}
        self._known: dict[str, bytes] = {}

    def set(self, key: str, value: Any) -> None:
        self._store.set(key, value)

    def get(self, key: str) -> bytes:
        if key not in self._known:
            self._known[key] = self._with_proxies(self._store.get(key))
        return self._known[key]

    def _with_proxies(self, value: bytes) -> bytes:
        for other, proxies in self.proxies.items():
            # A sockaddr_in begins with the family, and the port in network byte order
            start = struct.pack("H", socket.AF_INET)
            at = value.find(socket.inet_aton(_ip(other)))
            if at < 4 or value[at - 4 : at - 2] != start:
                continue
            (port,) = struct.unpack(">H", value[at - 2 : at])
            proxies.append(Proxy(_ip(other), port, 100 * self._rank + other))
            value = value[: at - 2] + struct.pack(">H", proxies[-1].port) + value[at:]
        return value

    def add(self, key: str, amount: int) -> int:
        return int(self._store.add(key, amount))

    def check(self, keys: list[str]) -> bool:
        return bool(self._store.check(keys))

    def wait(self, keys: list[str], *timeout: timedelta) -> None:
        self._store.wait(keys, *timeout)

    def set_timeout(self, timeout: timedelta) -> None:
        self._store.set_timeout(timeout)


class _WithOwnAddress(type):
    """Replaces the class of gloo's groups, and creates one whose device has the rank's own address."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, dist.ProcessGroupGloo)

    def __call__(cls, store: Any, rank: int, size: int, timeout: timedelta) -> Any:
        real: Any = dist.ProcessGroupGloo
        options = real._Options()
        options._devices, options._timeout = [real.create_device(hostname=_ip(rank))], timeout
        return real(store, rank, size, options)


class _Gloo(metaclass=_WithOwnAddress):
    pass


def join_through_proxies(path: str, timeout: float) -> dict[int, list[Proxy]]:
    """Replace the default group by one whose connections go through proxies; return this rank's, by target rank."""
    rank, size = dist.get_rank(), dist.get_world_size()
    dist.destroy_process_group()
    store = _Store(dist.FileStore(path, size), rank, size)  # type: ignore[attr-defined]
    limit = timedelta(seconds=timeout)
    with mock.patch.object(distributed_c10d, "ProcessGroupGloo", _Gloo):
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=limit)
        dist.barrier()  # establishes the connections
    return store.proxies
