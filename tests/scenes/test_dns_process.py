"""Shell. The DNS process as it runs: real sockets, real `dig`, a real upstream, real signals.

dig ──▶ 127.0.0.1:port, [::1]:port ──▶ meshnet.dns ──▶ dnsmasq on another port of loopback
                                           ▲
                              DnsFeed (this test is the agent)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import dns.asyncquery
import dns.message
import dns.rcode
import pytest

from meshnet.dns.feed import DnsFeed, stop_server
from meshnet.dns.table import HOST
from meshnet.dns.tcp import PER_CLIENT_MAX
from meshnet.dns.zone import Zones
from meshnet.model.records import Attachment, Instance
from meshnet.model.view import Node
from tests.lab.waiting import wait_until
from tests.pure.dns_world import attachment, instance, node, view
from tests.scenes.dns_served import HERE, WEB4, Served, free_port, mesh, served, web

__all__ = ["served"]


@pytest.mark.parametrize("server", [HERE, "::1"])
@pytest.mark.parametrize("more", [(), ("+tcp",), ("+noedns",)], ids=["udp", "tcp", "no edns"])
async def test_dig_gets_every_type(served: Served, server: str, more: tuple[str, ...]) -> None:
    async def short(*words: str) -> list[str]:
        return await served.short(*more, *words, server=server)

    assert await short("web.mesh") == WEB4
    assert await short("web.mesh", "AAAA") == [f"fd00:0:0:1::{number}" for number in (1, 2, 3)]
    assert await short("_http._tcp.web.mesh", "SRV") == [
        f"0 1 80 c{number}.web.default.mesh." for number in (1, 2, 3)
    ]
    assert await short("c2.web.mesh", "TXT") == ['"tier=front"']
    assert await short("-x", "10.214.0.2") == ["c2.default.mesh."]
    assert await short("-x", "fd00:0:0:1::2") == ["c2.default.mesh."]
    assert await short("-x", "10.213.0.1") == ["node1.mesh."]
    assert await short("mesh", "NS") == ["ns.mesh."]
    assert re.match(r"ns\.mesh\. hostmaster\.mesh\. \d+ ", (await short("mesh", "SOA"))[0])
    assert await short("node3.mesh") == ["10.213.0.3"]
    assert await short("db.appnet.mesh") == ["10.1.0.2", "10.1.0.3", "10.1.0.4"]
    assert await short("any.dev.mesh") == [*WEB4, "web.mesh."]
    assert await short("note.mesh", "TXT") == ['"two words"']


async def test_dig_sees_nodata_nxdomain_and_the_soa(served: Served) -> None:
    missing = await served.dig("nothing.mesh")
    empty = await served.dig("web.mesh", "MX")
    assert ("NXDOMAIN" in missing, "NOERROR" in empty) == (True, True)
    for text in (missing, empty):
        assert "ANSWER: 0, AUTHORITY: 1" in text
        assert re.search(r"^mesh\.\s+5\s+IN\s+SOA\s+ns\.mesh\.", text, re.MULTILINE)
    assert await served.status("_tcp.web.mesh") == "NOERROR"


async def test_dig_is_refused_what_nobody_may_have(served: Served) -> None:
    assert "Transfer failed" in await served.dig("mesh", "AXFR")
    assert await served.status("+opcode=NOTIFY", "mesh", "SOA") == "NOTIMP"
    assert await served.status("-c", "CH", "version.bind", "TXT") == "REFUSED"
    assert await served.status("example.com") == "REFUSED"


async def test_dig_gets_any_answered_minimally(served: Served) -> None:
    found = await served.dig("web.mesh", "ANY")
    assert "ANSWER: 3," in found
    assert "AAAA" not in found


async def test_dig_negotiates_edns(served: Served) -> None:
    assert "EDNS: version: 0, flags:; udp: 1232" in await served.dig("web.mesh")
    assert "OPT PSEUDOSECTION" not in await served.dig("+noedns", "web.mesh")
    assert await served.status("+edns=1", "+noednsneg", "web.mesh") == "BADVERS"
    assert "flags: do; udp: 1232" in await served.dig("+dnssec", "web.mesh")


async def test_dig_goes_to_tcp_for_what_was_cut(served: Served) -> None:
    await served.feed.publish(mesh(*(web(number) for number in range(1, 101))))
    cut = await served.dig("+ignore", "+bufsize=512", "web.mesh")
    assert re.search(r"flags: qr aa tc rd", cut)
    assert len(await served.short("web.mesh")) == 100


async def test_the_case_of_the_question_is_kept(served: Served) -> None:
    for asked in ("wEb.MesH", "WEB.mesh"):
        assert f";{asked}." in await served.dig(asked)


async def test_each_context_has_its_own_answers(served: Served) -> None:
    await served.feed.listen("appnet", "127.0.0.2", served.port)
    assert await served.short("ns.mesh", server="127.0.0.2") == ["10.1.0.1"]
    assert await served.short("ns.mesh") == ["10.213.0.1"]
    await served.feed.unlisten("appnet", "127.0.0.2", served.port)
    assert await served.short("ns.mesh", server="127.0.0.2") != ["10.1.0.1"]
    stats = await served.feed.stats()
    assert stats['queries{context="appnet",rcode="NOERROR"}'] == 1


async def test_many_questions_on_one_connection_are_answered_in_one_stream(served: Served) -> None:
    reader, writer = await asyncio.open_connection(HERE, served.port)
    queries = [dns.message.make_query("web.mesh", "A", id=number) for number in range(200)]
    wires = [query.to_wire() for query in queries]
    writer.write(b"".join(len(wire).to_bytes(2, "big") + wire for wire in wires))
    for query in queries:
        size = int.from_bytes(await reader.readexactly(2), "big")
        assert query.is_response(dns.message.from_wire(await reader.readexactly(size)))
    writer.close()


async def test_tcp_is_held_in_bounds(served: Served) -> None:
    reader, writer = await asyncio.open_connection(HERE, served.port)
    writer.write(b"\xff\xff" + bytes(100))
    assert await reader.read() == b""
    writer.close()
    crowd = [await asyncio.open_connection(HERE, served.port) for _ in range(PER_CLIENT_MAX)]
    over, last = await asyncio.open_connection(HERE, served.port)
    assert await over.read() == b""
    for _, one in [*crowd, (over, last)]:
        one.close()
    await served.until(WEB4, "+tcp", "web.mesh")


async def test_a_client_that_never_reads_costs_a_bounded_memory(served: Served) -> None:
    reader, writer = await asyncio.open_connection(HERE, served.port, limit=1024)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    wire = dns.message.make_query("web.mesh", "A").to_wire()
    framed = (len(wire).to_bytes(2, "big") + wire) * 2000
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(3):
            for _ in range(200):
                writer.write(framed)
                await writer.drain()
    assert served.feed.pid is not None
    assert memory(served.feed.pid) < 14_000
    assert await served.short("web.mesh") == WEB4
    writer.transport.abort()
    del reader


async def test_garbage_does_not_disturb_it(served: Served) -> None:
    rng = random.Random(7)
    before = served.feed.pid
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(3000):
            sock.sendto(rng.randbytes(rng.randrange(0, 600)), (HERE, served.port))
    for _ in range(20):
        _, writer = await asyncio.open_connection(HERE, served.port)
        writer.write(rng.randbytes(rng.randrange(1, 400)))
        writer.close()
    await served.until(WEB4, "web.mesh")
    assert served.feed.pid == before


async def test_the_process_answers_on_without_an_agent_and_the_next_adopts_it(
    served: Served,
) -> None:
    pid = served.feed.pid
    await served.feed.close()
    assert await served.short("web.mesh") == WEB4
    served.feed = DnsFeed(served.path)
    await served.feed.start()
    assert served.feed.pid == pid
    assert (HOST, HERE, served.port) in served.feed.listening
    assert await served.short("web.mesh") == WEB4
    await served.feed.publish(mesh(web(1)))
    assert await served.short("web.mesh") == ["10.214.0.1"]
    await served.feed.listen(HOST, HERE, served.port)
    assert await served.short("web.mesh") == ["10.214.0.1"]


async def test_an_agent_killed_in_the_middle_of_an_update_changes_nothing(served: Served) -> None:
    from meshnet.dns.line import Line
    from meshnet.dns.update import update_messages

    messages = list(update_messages(None, mesh(web(9)), 1))
    line = Line.open(served.path)
    assert line is not None
    for message in messages[:-1]:
        await line.send(message)
    line.close()
    assert await served.short("web.mesh") == WEB4


async def test_a_killed_process_is_started_again_with_all_it_had(served: Served) -> None:
    pid = served.feed.pid
    assert pid is not None
    await served.feed.listen("appnet", "127.0.0.2", served.port)
    os.kill(pid, signal.SIGKILL)
    await served.until(WEB4, "web.mesh")
    assert await served.short("ns.mesh", server="127.0.0.2") == ["10.1.0.1"]
    assert served.feed.pid not in (pid, None)
    await asyncio.to_thread(wait_until, lambda: state_of(pid) == "gone", 5, "it is reaped")


def state_of(pid: int) -> str:
    """The kernel's letter for the state of a process, or `gone`."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def memory(pid: int) -> int:
    """Resident memory in kB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


async def test_a_process_that_hangs_is_ended_and_replaced(served: Served) -> None:
    pid = served.feed.pid
    assert pid is not None
    await served.feed.close()
    os.kill(pid, signal.SIGSTOP)
    served.feed = DnsFeed(served.path)
    await served.feed.start()
    assert served.feed.pid != pid
    assert state_of(pid) in ("gone", "Z")
    await served.feed.publish(mesh())
    await served.feed.listen(HOST, HERE, served.port)
    assert await served.short("web.mesh") == WEB4


async def test_a_run_directory_that_is_wiped_comes_back_and_the_next_agent_adopts(
    tmp_path: Path,
) -> None:
    feed, path = DnsFeed(tmp_path / "run" / "dns.sock"), tmp_path / "run" / "dns.sock"
    await feed.start()
    pid = feed.pid
    shutil.rmtree(path.parent)
    await asyncio.to_thread(wait_until, path.exists, 5, "the control socket is back")
    await feed.close()
    feed = DnsFeed(path)
    await feed.start()
    assert feed.pid == pid
    await feed.stop()
    assert not path.exists()


async def test_a_process_whose_place_another_has_taken_ends_and_leaves_the_ports_to_it(
    served: Served,
) -> None:
    lost = served.feed.pid
    assert lost is not None
    served.path.unlink()
    other = DnsFeed(served.path)
    await other.start()
    assert other.pid != lost
    await asyncio.to_thread(wait_until, lambda: state_of(lost) in ("gone", "Z"), 5, "it ends")
    await other.publish(mesh(web(9)))
    await other.listen(HOST, HERE, served.port)
    await served.until(["10.214.0.9"], "web.mesh")
    await other.close()


async def test_nothing_is_raised_when_no_process_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    feed = DnsFeed(tmp_path / "dns.sock")
    await feed.start()
    await feed.publish(mesh())
    assert "ended at once with code 1" in feed.error
    monkeypatch.undo()
    await asyncio.to_thread(wait_until, lambda: feed.error == "" and feed.pid, 10, "it starts")
    await feed.stop()


class Client(threading.Thread):
    """Asks `web.mesh` at a steady rate and counts which questions had no answer."""

    def __init__(self, port: int, rate: int) -> None:
        super().__init__(daemon=True)
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.connect((HERE, port))
        self._sock.settimeout(0)
        self._pause = 1 / rate
        self._halt = threading.Event()
        self.sent = 0
        self.answers: dict[int, bytes] = {}

    def run(self) -> None:
        tail = dns.message.make_query("web.mesh", "A").to_wire()[2:]
        due = time.monotonic()
        while not self._halt.is_set():
            self._sock.send(struct.pack(">H", self.sent) + tail)
            self.sent += 1
            due += self._pause
            self._collect()
            time.sleep(max(0.0, due - time.monotonic()))

    def _collect(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                reply = self._sock.recv(2048)
                self.answers[int.from_bytes(reply[:2], "big")] = reply

    def finish(self) -> int:
        """Stop asking; return how many questions were not answered within two seconds."""
        if self._halt.is_set():
            return self.sent - len(self.answers)
        self._halt.set()
        self.join()
        with contextlib.suppress(AssertionError):
            wait_until(self._complete, 2, "all answers")
        self._sock.close()
        return self.sent - len(self.answers)

    def _complete(self) -> bool:
        self._collect()
        return len(self.answers) == self.sent

    def rcodes(self) -> set[int]:
        return {reply[3] & 15 for reply in self.answers.values()}


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    client = Client(served.port, 1000)
    client.start()
    yield client
    client.finish()


async def test_twenty_changes_at_a_thousand_queries_a_second_lose_nothing(
    served: Served, client: Client
) -> None:
    for step in range(20):
        await served.feed.publish(mesh(web(1), web(2, f"10.214.1.{step}")))
        await asyncio.sleep(0.05)
    assert await asyncio.to_thread(client.finish) == 0
    assert client.sent >= 800
    assert client.rcodes() == {0}
    last = dns.message.from_wire(client.answers[client.sent - 1])
    assert sorted(str(data) for data in last.answer[0]) == ["10.214.0.1", "10.214.1.19"]


async def test_whole_new_generations_lose_nothing_either(served: Served, client: Client) -> None:
    for _ in range(5):
        await served.feed.close()
        served.feed = DnsFeed(served.path)
        await served.feed.start()
        await served.feed.publish(mesh(*(web(number) for number in range(1, 60))))
    assert await asyncio.to_thread(client.finish) == 0
    assert client.rcodes() == {0}


async def test_a_process_of_another_version_is_replaced_and_nothing_is_lost(
    served: Served, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = served.feed.pid
    await served.feed.close()
    monkeypatch.setattr("meshnet.dns.feed.__version__", "0.0.0+other")
    served.feed = DnsFeed(served.path)
    await served.feed.publish(mesh())
    await served.feed.start()
    assert served.feed.pid != pid
    assert await served.short("web.mesh") == WEB4
    assert await asyncio.to_thread(client.finish) == 0


def peers(count: int) -> list[Node]:
    return [node(number) for number in range(1, count + 1)]


def services(count: int) -> list[Node]:
    """So many services with three instances each, a hundred instances on a node."""
    return [node(number, *instances_of(number, count)) for number in range(3 * count // 100)]


def instances_of(number: int, services: int) -> Iterator[Attachment | Instance]:
    for at in range(number * 100, number * 100 + 100):
        address = ip_address("10.214.0.2") + at
        yield attachment("default", f"c{at}", str(address))
        yield instance("default", f"s{at % services}", f"c{at}")


@pytest.mark.parametrize(
    ("nodes", "asked", "limit"),
    [
        (peers(1000), [f"node{number}.mesh" for number in range(1, 101)], 12_000),
        (services(1000), [f"s{number}.mesh" for number in range(1000)], 17_000),
    ],
    ids=["a thousand peers", "a thousand services of three instances"],
)
async def test_it_is_small_with(
    nodes: list[Node], asked: list[str], limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured as installed, with byte code: compiling at the start costs a megabyte for good."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "pyc"))
    path = tmp_path / "dns.sock"
    tables = Zones(nodes[0].id).update(view(*nodes), [one.id for one in nodes], ())
    for _ in range(2):
        feed = DnsFeed(path)
        await feed.start()
        await feed.publish(tables)
        port = free_port()
        await feed.listen(HOST, HERE, port)
        for name in asked:
            query = dns.message.make_query(name, "A")
            reply = await dns.asyncquery.udp(query, HERE, port=port, timeout=2)
            assert len(reply.answer[0]) in (1, 3)
        assert feed.pid is not None
        used = memory(feed.pid)
        print(f"resident: {used} kB with {(await feed.stats())['names']} names")
        await feed.stop()
    assert used <= limit


async def test_an_address_in_use_is_tried_again(served: Served) -> None:
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((HERE, port))
        await served.feed.listen(HOST, HERE, port)
        assert "Address already in use" in served.feed.error
        assert await served.short("web.mesh") == WEB4
    place = (HOST, HERE, port)
    await asyncio.to_thread(wait_until, lambda: place in served.feed.listening, 10, "it listens")
    assert served.feed.error == ""


async def test_stop_server_ends_it_without_an_event_loop(served: Served) -> None:
    pid = served.feed.pid
    await served.feed.close()
    assert stop_server(served.path) == [f"end DNS process {pid}"]
    assert stop_server(served.path) == []


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"dnstest{os.getpid()}"
    make_namespace(name)
    yield name
    ip("netns", "del", name)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def make_namespace(name: str) -> None:
    ip("netns", "add", name)
    ip("-n", name, "link", "set", "lo", "up")


@pytest.mark.root
async def test_it_listens_in_another_network_namespace(served: Served, netns: str) -> None:
    path = f"/run/netns/{netns}"
    await served.feed.listen("appnet", "10.1.0.1", served.port, path)
    assert served.feed.error == ""
    # The address comes later than the listener.
    ip("-n", netns, "addr", "add", "10.1.0.1/24", "dev", "lo")
    assert dig_in(netns, served.port) == ["10.1.0.1"]
    # The namespace is made anew under the same name: the old socket serves nobody there.
    ip("netns", "del", netns)
    make_namespace(netns)
    ip("-n", netns, "addr", "add", "10.1.0.1/24", "dev", "lo")
    assert dig_in(netns, served.port) == []
    await served.feed.publish(mesh(web(1)))
    assert dig_in(netns, served.port) == ["10.1.0.1"]
    # The network is gone: its listener, which keeps the namespace alive, is closed.
    await served.feed.unlisten("appnet", "10.1.0.1", served.port)
    assert dig_in(netns, served.port) == []


def dig_in(netns: str, port: int) -> list[str]:
    command = ["ip", "netns", "exec", netns, "dig", "@10.1.0.1", "-p", str(port)]
    words = ["+short", "+time=1", "+tries=1", "ns.mesh"]
    found = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    return [line for line in found.stdout.splitlines() if not line.startswith(";")]
