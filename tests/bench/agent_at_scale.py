"""N2, N3: one agent among 1,000 peers and 10,000 attachments: time, CPU and memory.

    python -m tests.bench.agent_at_scale [--peers 1000] [--attachments 10] [--changes 50]

A real agent on a host in a namespace, with a state directory that holds the facts of a whole mesh:
it boots from them without any coordinator, into a real WireGuard device and a real VXLAN segment.
The peers are quiet ones (`quiet_peers`): they shake hands and answer probes.

    boot    agent started → the kernel has all peers and entries; → all peers have answered
    N2      a fact comes in from a peer, after the vectors → the kernel has the entry; CPU of the
            agent for one change
    N3      memory of the agent and of the DNS process (RSS), CPU of a core while nothing changes
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import socket
import statistics
import sys
import time
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import msgspec

from meshnet.agent.storage import Settings, StateDir
from meshnet.linux.netlink import in_namespace
from meshnet.model.addresses import Endpoint, attachment_mac, mesh_prefix6, node_address6
from meshnet.model.attached import LocalAttachment
from meshnet.model.facts import Fact
from meshnet.model.keys import SigningKey
from meshnet.model.records import Attachment, Candidate, Instance, NodeRecord, Record, ServicePort
from meshnet.model.statements import Issuer, Lease, Membership, Mesh, Network, Statement
from meshnet.wire import codec
from meshnet.wire.fact import seal, sign
from tests.bench.quiet_peers import FIRST_PORT, private_key
from tests.lab.guest import has_wireguard
from tests.lab.hosts import Host
from tests.lab.mesh import PROGRAM, Node
from tests.lab.topology import Lab
from tests.lab.waiting import wait_until

FAR = 1 << 40
NETWORK = Network("default", 1000, (ip_network("10.214.0.0/15"),))
PREFIX4 = ip_network("10.213.0.0/16")
BLOCK = 26
QUIET_PEERS = "tests.bench.quiet_peers"


def secret(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class Facts:
    """The facts of a mesh of `count` nodes; node 0 is ours."""

    def __init__(self, count: int, attachments: int, address: str) -> None:
        """`address` is where all peers are, each on a port of its own."""
        self._address = ip_address(address)
        self.root, self.issuer = SigningKey(secret("root")), SigningKey(secret("issuer"))
        self.prefix6 = mesh_prefix6(self.root.public.raw)
        self.keys = [SigningKey(secret(f"node {number}")) for number in range(count)]
        self._sequence = 1
        self.facts = [sign(self.root, Issuer(self.issuer.public, FAR), 1)]
        self._state(Mesh(PREFIX4, self.prefix6))  # type: ignore[arg-type]
        self._state(NETWORK)
        for number in range(count):
            self._node(number, attachments if number else 0)

    def _state(self, body: Statement) -> None:
        self._sequence += 1
        self.facts.append(sign(self.issuer, body, self._sequence))

    def _say(self, number: int, body: Record, sequence: int) -> None:
        self.facts.append(sign(self.keys[number], body, sequence))

    def block(self, number: int) -> int:
        return int(NETWORK.prefixes[0].network_address) + (number + 1) * (1 << (32 - BLOCK))

    def _node(self, number: int, attachments: int) -> None:
        identity = self.keys[number].public
        key = private_key(number).public
        self._state(
            Membership(
                node=identity.node_id,
                name=f"n{number}",
                identity=identity,
                address4=IPv4Address(int(PREFIX4.network_address) + number + 1),
                address6=node_address6(self.prefix6, identity.node_id),
                not_after=FAR,
                wireguard=(key,),
            )
        )
        prefix = ip_network((self.block(number), BLOCK))
        self._state(Lease("default", identity.node_id, prefix, FAR))
        if number:
            endpoint = Endpoint(self._address, FIRST_PORT + number)
            self._say(number, NodeRecord((key,), (Candidate(endpoint),)), 1)
        for slot in range(attachments):
            self._say(number, attachment(self, number, slot), slot + 2)
            instance = Instance("default", f"s{slot}", f"c{slot}", (ServicePort(80),))
            self._say(number, instance, slot + 2)


def attachment(facts: Facts, number: int, slot: int) -> Attachment:
    address = ip_address(facts.block(number) + slot + 2)
    return Attachment("default", f"c{slot}", (address,), attachment_mac(NETWORK.vni, address))


def prepare(host: Host, facts: Facts, box: str) -> None:
    """Write the state directory of node 0, with one container attached."""
    state = StateDir(host.file("/var/lib/meshnet"))
    state.create()
    texts = [base64.b64encode(raw).decode() for raw in (facts.keys[0].seed, private_key(0).raw)]
    (state.path / "keys.json").write_text(
        '{"identity":"%s","wireguard":"%s"}' % tuple(texts)  # noqa: UP031
    )
    state.save_settings(
        Settings(
            root=facts.root.public,
            name="n0",
            urls=("https://192.0.2.250:7443",),
            pins=("00" * 32,),
            host_networks=(),
            dns_forward=False,
        )
    )
    address = ip_address(facts.block(0) + 2)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    inode = int(host.output("stat", "-Lc", "%i", box).strip())
    state.save_attachments(
        [
            LocalAttachment(
                network="default",
                name="box",
                addresses=(str(address),),
                mac=attachment_mac(NETWORK.vni, address),
                interface="mesh0",
                netns=box,
                inode=inode,
                boot=boot,
            )
        ]
    )
    state.journal().append(facts.facts)
    state.mark_complete()


def entries(host: Host) -> int:
    text = host.run(*SEGMENT, "bridge", "fdb", "show", "dev", "vx0", check=False).stdout
    return sum(" dst " in line for line in text.splitlines())


SEGMENT = ("nsenter", "--net=/run/netns/meshnet-default")


def give(host: Host, fact: Fact, vector: bytes) -> float:
    """Hand a fact over as a peer would that knows all else we know: the exchange. Return when."""
    sock = in_namespace(f"/proc/{host.pid}/ns/net", _dial)
    with sock, sock.makefile("rwb") as stream:
        stream.write(vector + b"\n")
        stream.flush()
        while stream.readline() != b"{}\n":
            pass
        began = time.monotonic()
        stream.write(codec.encode(seal(fact)) + b"\n{}\n")
        stream.flush()
        stream.read()
        return began


def _dial() -> socket.socket:
    return socket.create_connection(("10.213.0.1", 7420), 5)


class Watch:
    """FDB changes of the segment, as the kernel tells them."""

    def __init__(self, host: Host) -> None:
        inside = str(host.file("/run/netns/meshnet-default"))
        self._socket = in_namespace(inside, self._open)

    @staticmethod
    def _open() -> socket.socket:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        sock.bind((0, 1 << 2))
        sock.settimeout(5)
        return sock

    def until(self, mac: str) -> None:
        raw = bytes.fromhex(mac.replace(":", ""))
        while raw not in self._socket.recv(1 << 16):
            pass


def cpu(pid: int) -> float:
    """Return the CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss(pid: int) -> float:
    """Return the memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", type=int, default=1000)
    parser.add_argument("--attachments", type=int, default=10)
    parser.add_argument("--changes", type=int, default=50)
    options = parser.parse_args()
    with Lab("bench: agent at scale") as lab:
        lab.subnet("lan", "192.0.2.0/24")
        host, far = lab.host("n0", "lan"), lab.host("far", "lan")
        far.start("peers", sys.executable, "-m", QUIET_PEERS, str(options.peers), far.address4)
        facts = Facts(options.peers + 1, options.attachments, far.address4)
        box = host.container("box")
        prepare(host, facts, box.netns_path)
        start = time.monotonic()
        agent = host.start("agent", PROGRAM, "agent")
        wanted = options.peers * options.attachments
        wait_until(
            lambda: entries(host) >= wanted and served(host),
            120,
            lambda: f"{wanted} entries and names\n{agent.tail()}",
        )
        booted = time.monotonic() - start
        node = Node(host)
        wait_until(
            lambda: node.status().counts.reachable == options.peers,
            300,
            lambda: f"all peers answer\n{node.status()}\n{agent.tail()}",
        )
        reached = time.monotonic() - start
        measure(host, agent.process.pid, facts, options.changes, options.peers)
        print(f"boot to all entries: {booted:.1f} s ({len(facts.facts)} facts)")
        print(f"boot to an answer of every peer: {reached:.1f} s")


def served(host: Host) -> bool:
    """Tell whether the DNS process runs, which the agent starts after the first full pass."""
    lines = [Path(f"/proc/{pid}/cmdline") for pid in host.processes()]
    return any(b"meshnet.dns" in line.read_bytes() for line in lines if line.exists())


def measure(host: Host, launcher: int, facts: Facts, changes: int, peers: int) -> None:
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in host.processes()}
    agent = next(pid for pid, line in commands.items() if line.endswith(b"agent\0"))
    dns = next(pid for pid, line in commands.items() if b"meshnet.dns" in line)
    time.sleep(15)
    before, since = cpu(agent), time.monotonic()
    time.sleep(20)
    idle = (cpu(agent) - before) / (time.monotonic() - since)
    watch = Watch(host)
    known = {str(fact.slot.writer): 1 << 40 for fact in facts.facts}
    vector = codec.encode({"vector": known})
    times = []
    before = cpu(agent)
    for number in range(changes):
        node = number % (peers - 1) + 1
        body = attachment(facts, node, 40 + number // (peers - 1))
        body = msgspec.structs.replace(body, name=f"d{number}")
        fact = sign(facts.keys[node], body, 1000 + number)
        began = give(host, fact, vector)
        watch.until(body.mac)
        times.append((time.monotonic() - began) * 1000)
    each = (cpu(agent) - before) / changes * 1000
    backend = "kernel" if has_wireguard() else "wireguard-go"
    print(f"\nWireGuard: {backend}, Linux {os.uname().release}, {peers} peers")
    p99 = sorted(times)[int(len(times) * 0.99) - 1]
    print(f"N2 fact in → kernel changed: p50 {statistics.median(times):.1f} ms, p99 {p99:.1f} ms")
    print(f"   CPU of the agent for each, audits included: {each:.1f} ms")
    print(f"N3 agent {rss(agent):.1f} MB, DNS process {rss(dns):.1f} MB")
    print(f"   CPU while nothing changes: {idle * 100:.1f} % of a core")


if __name__ == "__main__":
    main()
