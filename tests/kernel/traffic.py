"""Shell. Traffic between containers, and what it tells: sizes that pass, packets that are lost."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

from tests.lab import Daemon, Place, wait_until
from tests.scenes.mesh_scenes import Box

HEADS = {4: 20 + 8, 6: 40 + 8}
"""Bytes of IP and ICMP header in a ping, by IP version."""

TALK_PORT = 7001

ECHO = f"""
import socket
with socket.create_server(("::", {TALK_PORT}), family=socket.AF_INET6, dualstack_ipv6=True) as at:
    print("listening", flush=True)
    one, _ = at.accept()
    while data := one.recv(4096):
        one.sendall(data)
"""

TALK = f"""
import socket, sys, time
one = socket.create_connection((sys.argv[1], {TALK_PORT}), 10)
one.settimeout(10)
number = longest = 0
while True:
    sent = time.monotonic()
    one.sendall(number.to_bytes(8, "big"))
    got = b""
    while len(got) < 8:
        part = one.recv(8 - len(got))
        assert part, "closed"
        got += part
    assert int.from_bytes(got, "big") == number
    number += 1
    longest = max(longest, time.monotonic() - sent)
    print(number, "echoed, longest", round(longest, 3), flush=True)
    time.sleep(0.02)
"""


def full_size(mtu: int, address: str) -> int:
    """Return the payload, in bytes, of a ping that fills a packet."""
    return mtu - HEADS[ip_address(address).version]


def ping_whole(place: Place, address: str, payload: int) -> tuple[bool, str]:
    """Ping with packets that may not be fragmented; return whether all came back, and the words."""
    words = ("ping", "-n", "-M", "do", "-c3", "-i0.1", "-W2", "-s", str(payload), address)
    done = place.run(*words, check=False)
    return done.returncode == 0 and " 0% packet loss" in done.stdout, done.stdout + done.stderr


def check_sizes(place: Place, address: str, mtu: int) -> None:
    """A packet of `mtu` bytes passes; one byte more is answered with an error that says the MTU."""
    payload = full_size(mtu, address)
    for size in (payload - 1, payload):
        passes, words = ping_whole(place, address, size)
        assert passes, f"{size} bytes of {mtu}: {words}"
    passes, words = ping_whole(place, address, payload + 1)
    assert not passes
    assert re.search(rf"mtu\s*[=:]\s*{mtu}", words), f"one byte over {mtu}: {words}"


class Conversation:
    """Pings in both families and one TCP connection, from container a to container b."""

    made = 0

    def __init__(self, a: Box, b: Box) -> None:
        Conversation.made += 1
        self._echo = b.container.start(f"echo-{self.made}", sys.executable, "-c", ECHO)
        wait_until(lambda: "listening" in self._echo.text(), 10, lambda: self._echo.text())
        talk = ("talk", sys.executable, "-c", TALK, b.address4)
        self._talk = a.container.start(f"{talk[0]}-{self.made}", *talk[1:])
        self._pings = [
            a.container.start(f"ping-{self.made}-{address}", "ping", "-n", "-i", "0.02", address)
            for address in (b.address4, b.address6)
        ]
        self.wait_until_it_goes_on()

    def wait_until_it_goes_on(self) -> None:
        """Wait until the connection and both streams of pings have had answers from now on."""
        then = self._answers()

        def more() -> bool:
            return all(now > before for now, before in zip(self._answers(), then, strict=True))

        wait_until(more, 10, lambda: f"answers\n{self._talk.tail()}")

    def _answers(self) -> list[int]:
        echoes = len(self._talk.text().splitlines()) if self._talk.running else 0
        return [echoes, *(max(received(ping), default=0) for ping in self._pings)]

    def end(self) -> None:
        """Assert that nothing was lost so far, and end it."""
        self.wait_until_it_goes_on()
        for ping in self._pings:
            ping.stop(number=signal.SIGINT)
            numbers = received(ping)
            assert sorted(set(range(1, max(numbers) + 1)) - numbers) == [], ping.tail(4)
        self._talk.kill()
        self._echo.kill()


@contextmanager
def unbroken(a: Box, b: Box) -> Iterator[None]:
    """Assert that nothing is lost between two containers meanwhile, and no connection breaks."""
    conversation = Conversation(a, b)
    yield
    conversation.end()


def received(ping: Daemon) -> set[int]:
    """Return the sequence numbers that were answered."""
    return {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl=", ping.text())}
