"""TCP proxies between the ranks of a gloo group, which delay, break up, hold back and end its connections.

A rank reads the addresses of the others from the store of the group. Here they name proxies in the rank's own process,
so that each connection passes one. Ranks have addresses of their own, 127.0.0.2 and so on, since gloo compares these to
choose which of two ranks connects.
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
    """Passes connections on to an address, in fragments of random lengths after random times.

    Parameters
    ----------
    ip, port : str, int
        Where the listener of the rank is.
    seed : int
        That of the lengths and times.
    """

    def __init__(self, ip: str, port: int, seed: int) -> None:
        self._to, self._random = (ip, port), random.Random(seed)
        self._is_held, self._sockets, self.passed = False, list[socket.socket](), 0
        self._listener = socket.create_server((ip, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        """Pass nothing on any more, without a sign to either side: a network that is down."""
        self._is_held = True

    def end(self) -> None:
        """End all connections with a reset: a process or a firewall that closes them."""
        for one in self._sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(OSError):  # the other side may have ended it
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
            return  # ended


class _Store(dist.Store):  # type: ignore[misc, name-defined]
    """A store in which the addresses of other ranks are those of proxies."""

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
            # A sockaddr_in begins with the family and the port in the order of bytes of the network
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
    """Stands for the class of gloo's groups, and makes one whose device has the rank's own address."""

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
    """Leave the default group for one whose connections pass proxies; return this rank's, by the rank they lead to."""
    rank, size = dist.get_rank(), dist.get_world_size()
    dist.destroy_process_group()
    store = _Store(dist.FileStore(path, size), rank, size)  # type: ignore[attr-defined]
    limit = timedelta(seconds=timeout)
    with mock.patch.object(distributed_c10d, "ProcessGroupGloo", _Gloo):
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=limit)
        dist.barrier()  # connects
    return store.proxies
