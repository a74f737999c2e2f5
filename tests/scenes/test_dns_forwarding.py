"""Shell. Names of others: a real upstream behind the DNS process, silent ones, dead ones, liars.

dig ──▶ meshnet.dns ──▶ dnsmasq on another port of loopback, or worse
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.rcode
import dns.rrset
import pytest

from meshnet.dns.forward import ATTEMPT_SECONDS, ATTEMPTS_MAX, PER_CLIENT_MAX
from tests.lab.waiting import wait_until
from tests.scenes.dns_served import HERE, WEB4, Served, free_port, served

__all__ = ["served"]


class Upstream:
    """A dnsmasq on a port of loopback that knows a few names and counts what it is asked."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self._log = log
        self._process = subprocess.Popen(
            [
                *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv"),
                *("--no-hosts", "--bind-interfaces", "--no-daemon", f"--port={self.port}"),
                *(f"--listen-address={HERE}", "--log-queries", f"--log-facility={log}"),
                *("--local-ttl=30", "--host-record=up.example,192.0.2.7,2001:db8::7"),
                *("--local=/example/", "--pid-file="),
                *(f"--host-record=many.example,192.0.2.{last}" for last in range(1, 80)),
            ],
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._up, 5, "dnsmasq answers")

    @property
    def spec(self) -> str:
        return f"{HERE}#{self.port}"

    def _up(self) -> bool:
        query = dns.message.make_query("probe.example", "A")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.2)
            sock.connect((HERE, self.port))
            with contextlib.suppress(OSError):
                sock.send(query.to_wire())
                return bool(sock.recv(512))
        return False

    def asked(self, name: str) -> int:
        """How often it was asked for a name, by its own log."""
        return self._log.read_text().count(f"query[A] {name} from")

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    if shutil.which("dnsmasq") is None:
        pytest.skip("needs dnsmasq")
    upstream = Upstream(tmp_path / "dnsmasq.log")
    yield upstream
    upstream.end()


async def test_other_names_are_asked_of_the_upstream_once(
    served: Served, upstream: Upstream
) -> None:
    await served.feed.set_upstreams([upstream.spec])
    for _ in range(5):
        assert await served.short("up.example") == ["192.0.2.7"]
    assert await served.short("up.example", "AAAA") == ["2001:db8::7"]
    assert upstream.asked("up.example") == 1
    answer = await served.dig("up.example")
    assert re.search(r"flags: qr rd ra;", answer)
    assert await served.status("none.example") == "NXDOMAIN"
    stats = await served.feed.stats()
    assert stats['forwards{result="cached"}'] >= 4


async def test_long_answers_of_the_upstream_come_by_tcp(served: Served, upstream: Upstream) -> None:
    await served.feed.set_upstreams([upstream.spec])
    assert len(await served.short("many.example")) == 79
    assert len(await served.short("+tcp", "many.example")) == 79


async def test_an_alias_that_leads_to_others_is_followed(
    served: Served, upstream: Upstream
) -> None:
    assert await served.short("cdn.mesh") == ["up.example."], "nobody to ask for the rest"
    await served.feed.set_upstreams([upstream.spec])
    for _ in range(3):
        assert await served.short("cdn.mesh") == ["192.0.2.7", "up.example."]
    assert await served.short("cdn.mesh", "AAAA") == ["2001:db8::7", "up.example."]
    assert await served.short("cdn.mesh", "CNAME") == ["up.example."]
    assert await served.short("+norecurse", "cdn.mesh") == ["up.example."]
    assert upstream.asked("up.example") == 1
    assert len(await served.short("x.far.mesh")) == 80
    assert await served.status("lost.mesh") == "NXDOMAIN"
    upstream.end()
    assert await served.status("lost.mesh", "TXT") == "SERVFAIL"


async def test_own_names_never_reach_the_upstream(served: Served, upstream: Upstream) -> None:
    await served.feed.set_upstreams([upstream.spec])
    assert await served.status("nothing.mesh") == "NXDOMAIN"
    assert await served.status("-x", "10.213.9.9") == "NXDOMAIN"
    assert upstream.asked("nothing.mesh") == 0


async def test_a_silent_upstream_is_left_for_the_next(served: Served, upstream: Upstream) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HERE, 0))
        first = f"{HERE}#{silent.getsockname()[1]}"
        await served.feed.set_upstreams([first, upstream.spec])
        assert await served.short("up.example") == ["192.0.2.7"]
        begun = time.monotonic()
        assert await served.short("many.example", "MX") == []
        assert time.monotonic() - begun < ATTEMPT_SECONDS


async def test_when_all_upstreams_are_silent_it_says_so(served: Served, upstream: Upstream) -> None:
    await served.feed.set_upstreams([upstream.spec])
    upstream.pause()
    limit = ATTEMPT_SECONDS * ATTEMPTS_MAX + 1
    assert await served.status(f"+time={int(limit) + 1}", "up.example") == "SERVFAIL"
    assert await served.short("web.mesh") == WEB4


async def test_one_client_leaves_room_for_the_others(served: Served, upstream: Upstream) -> None:
    await served.feed.set_upstreams([upstream.spec])
    upstream.pause()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as greedy:
        greedy.bind(("127.0.0.9", 0))
        greedy.connect((HERE, served.port))
        for number in range(PER_CLIENT_MAX + 9):
            greedy.send(dns.message.make_query(f"x{number}.example", "A").to_wire())
        await served.count('forwards{result="refused"}', 9)
        greedy.settimeout(1)
        refused = [dns.message.from_wire(greedy.recv(512)) for _ in range(9)]
        assert {reply.rcode() for reply in refused} == {dns.rcode.SERVFAIL}
        upstream.resume()
        assert await served.short("up.example") == ["192.0.2.7"]


async def test_a_dead_upstream_is_noticed_at_once(served: Served, upstream: Upstream) -> None:
    await served.feed.set_upstreams([f"{HERE}#{free_port()}", upstream.spec])
    begun = time.monotonic()
    assert await served.short("up.example") == ["192.0.2.7"]
    assert time.monotonic() - begun < ATTEMPT_SECONDS


async def test_it_is_never_its_own_upstream(served: Served) -> None:
    await served.feed.set_upstreams([f"{HERE}#{served.port}", f"::1#{served.port}"])
    assert await served.status("example.com") == "REFUSED"


async def test_forged_answers_are_not_taken(served: Served, tmp_path: Path) -> None:
    """The upstream first sends a wrong ID, then a wrong question, then what is right."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as fake:
        fake.bind((HERE, 0))
        fake.settimeout(5)
        await served.feed.set_upstreams([f"{HERE}#{fake.getsockname()[1]}"])

        def lie() -> None:
            data, sender = fake.recvfrom(2048)
            query = dns.message.from_wire(data)
            for name, number, address in (
                ("x.example", query.id ^ 1, "192.0.2.66"),
                ("y.example", query.id, "192.0.2.66"),
                ("x.example", query.id, "192.0.2.1"),
            ):
                reply = dns.message.make_response(dns.message.make_query(name, "A", id=number))
                reply.answer.append(dns.rrset.from_text(f"{name}.", 9, "IN", "A", address))
                fake.sendto(reply.to_wire(), sender)

        liar = asyncio.create_task(asyncio.to_thread(lie))
        assert await served.short("x.example") == ["192.0.2.1"]
        await liar
