"""A slow, lossy network between processes, each in its own network namespace; a switch in this process passes packets.

Each rank moves from the machine's network to an empty namespace, whose only device is a TUN device that this process
reads and writes. A packet waits until those before it have been sent at the bandwidth of the link, then for the delay;
some are dropped at random, as are those that do not fit the queue, and all while a link is down. The ranks thus use the
kernel's TCP, with its windows and retransmissions, as between machines.

Needs Linux with /dev/net/tun and the privilege to create namespaces: root, or user namespaces, which some containers
and distributions disable. The kernel's own emulator, tc netem, is not in all kernels, and needs root.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass

DEVICE = "fastiter0"
MTU = 1500
#: Bytes of the IP and TCP headers of a packet, including TCP time stamps
HEADERS = 52
#: Maximum number of packets queued for a link, as in tc netem
LIMIT = 1000

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
_IFF_UP = 1


@dataclass(frozen=True)
class Link:
    """The properties of every link, in each direction.

    Attributes
    ----------
    rate : float
        Bits per second, including IP headers.
    delay : float
        Travel time of a packet in seconds.
    loss : float
        The fraction of packets that are lost.
    """

    rate: float
    delay: float
    loss: float = 0.0

    def __str__(self) -> str:
        lost = f", {self.loss:.0%} lost" if self.loss else ""
        return f"{self.rate / 1e6:g} Mbit/s, {1e3 * self.delay:g} ms{lost}"

    @property
    def alpha(self) -> float:
        """Fixed time of a message on the link, in seconds: the delay, and the packet with its header."""
        return self.delay

    @property
    def beta(self) -> float:
        """Seconds per byte of a long message, including the headers of full packets."""
        return 8 / self.rate * MTU / (MTU - HEADERS)


def address(rank: int) -> str:
    """Return the IP address of a rank."""
    return f"10.77.0.{rank + 1}"


def enter_namespace(rank: int) -> int:
    """Leave the machine's network; return the file descriptor of the only device in the new one."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWNET | _CLONE_NEWUSER
    if libc.unshare(flags) != 0:
        error = ctypes.get_errno()
        raise PermissionError(error, f"no network namespace can be made here: {os.strerror(error)}")
    try:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        raise PermissionError(error.errno, f"no TUN device can be made here: {error.strerror}") from None
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for number, text in ((_SIOCSIFADDR, address(rank)), (_SIOCSIFNETMASK, "255.255.255.0")):
            named = struct.pack("16sH2s4s8x", DEVICE.encode(), socket.AF_INET, b"", socket.inet_aton(text))
            fcntl.ioctl(control, number, named)
        for name in (DEVICE, "lo"):
            reply = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH22x", name.encode(), 0))
            (state,) = struct.unpack_from("H", reply, 16)
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), state | _IFF_UP))
    return device


class Switch(threading.Thread):
    """Passes packets between devices like links, until it is stopped.

    Parameters
    ----------
    devices : list of int
        The file descriptors of the ranks' devices, which are closed at the end.
    link : Link
        The properties of every link, which may be changed at any time.
    seed : int
        Seed of the random losses.

    Attributes
    ----------
    passed, lost : int
        Numbers of packets that were delivered and lost.
    """

    def __init__(self, devices: list[int], link: Link, seed: int = 0) -> None:
        super().__init__(daemon=True)
        self.devices, self.link = devices, link
        self.passed = self.lost = 0
        self._down: set[int] = set()
        self._random = random.Random(seed)
        self._free = [0.0] * len(devices)  # when the link of each rank will have sent its queue
        self._travelling: list[tuple[float, int, int, bytes]] = []
        self._stopping = False

    def cut(self, rank: int) -> None:
        """Drop all further packets to and from a rank."""
        self._down.add(rank)

    def stop(self) -> None:
        """Stop, and close the devices."""
        self._stopping = True
        self.join()
        for device in self.devices:
            os.close(device)

    def run(self) -> None:
        """Read, delay and write packets until the end."""
        number = 0
        while not self._stopping:
            until = self._travelling[0][0] - time.monotonic() if self._travelling else 0.05
            ready, _, _ = select.select(self.devices, [], [], min(0.05, max(0.0, until)))
            for device in ready:
                source = self.devices.index(device)
                for packet in _packets(device):
                    number += 1
                    self._take(source, packet, number)
            now = time.monotonic()
            while self._travelling and self._travelling[0][0] <= now:
                self._deliver(*heapq.heappop(self._travelling)[2:])

    def _take(self, source: int, packet: bytes, number: int) -> None:
        """Schedule a packet for delivery, or drop it."""
        known = len(packet) >= 20 and packet[0] >> 4 == 4 and packet[16:19] == socket.inet_aton(address(0))[:3]
        to = packet[19] - 1 if known else -1
        if not 0 <= to < len(self.devices):
            return  # IPv6 neighbour discovery
        now = time.monotonic()
        link, seconds = self.link, 8 * len(packet) / self.link.rate
        begins = max(now, self._free[source])
        is_full = begins - now > LIMIT * 8 * MTU / link.rate
        if is_full or {source, to} & self._down or self._random.random() < link.loss:
            self.lost += 1
            return
        self._free[source] = begins + seconds
        heapq.heappush(self._travelling, (begins + seconds + link.delay, number, to, packet))

    def _deliver(self, to: int, packet: bytes) -> None:
        if to in self._down:
            self.lost += 1
            return
        os.write(self.devices[to], packet)
        self.passed += 1


def _packets(device: int) -> list[bytes]:
    """Return the packets waiting at a device, but not so many that others wait long."""
    packets = []
    for _ in range(64):
        try:
            packets.append(os.read(device, 2 * MTU))
        except BlockingIOError:
            break
    return packets
