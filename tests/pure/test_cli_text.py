"""What the command line prints, compared whole."""

from __future__ import annotations

import pytest

from meshnet.cli import tables, text
from meshnet.wire.local import (
    Attached,
    AttachmentInfo,
    CoordinatorState,
    Counts,
    DnsAnswer,
    DnsRecord,
    DnsState,
    InstanceInfo,
    NetworkInfo,
    NodeInfo,
    PeerInfo,
    PortSpec,
    Reconciled,
    ServiceInfo,
    Status,
)

NOW = 1_790_000_000
KEY = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="


def status(**changes: object) -> Status:
    values: dict[str, object] = {
        "version": "0.1.0",
        "node": "k7aq2mxw3zbd5nfe",
        "name": "a1",
        "addresses": ("10.213.0.2", "fd12:3456:789a::2"),
        "interface": "meshnet0",
        "backend": "kernel",
        "public_key": KEY,
        "listen_port": 51820,
        "mtu": 1420,
        "coordinator": CoordinatorState(
            connected=True, url="https://192.0.2.1:7443", since=NOW - 90
        ),
        "dns": DnsState(running=True, names=12, addresses=("10.213.0.2",), forwarding=True),
        "counts": Counts(nodes=4, networks=1, services=1, instances=2, attachments=5, peers=3),
        "revision": 42,
        "digest": "00112233445566778899aabbccddeeff",
        "membership_not_after": NOW + 20 * 3600,
        "started": NOW - 7300,
        "now": NOW,
        "last_reconcile": NOW - 4,
    }
    return Status(**(values | changes))  # type: ignore[arg-type]


def test_the_status_of_a_healthy_node_is_one_page() -> None:
    assert tables.status_text(status()) == (
        "Node: a1 (k7aq2mxw3zbd5nfe), meshnet 0.1.0, up 2 h\n"
        "Addresses: 10.213.0.2 fd12:3456:789a::2\n"
        "WireGuard: kernel\n"
        "Tunnel: meshnet0, port 51820, mtu 1420\n"
        f"Public key: {KEY}\n"
        "Coordinator: connected to https://192.0.2.1:7443 for 1 min\n"
        "Membership: until 2026-09-22 10:13Z (in 20 h)\n"
        "View: revision 42, digest 001122334455\n"
        "Mesh: 4 nodes, 1 network, 5 attachments, 1 service with 2 instances\n"
        "Peers: 0 of 3 reachable\n"
        "DNS: 12 names of mesh. on 10.213.0.2, forwards the rest, host does not ask it\n"
        "Reconciled: 4 s ago\n"
        "Repairs: none"
    )


def test_the_status_of_a_troubled_node_says_what_is_wrong() -> None:
    troubled = status(
        backend="wireguard-go 0.0.20230223",
        coordinator=CoordinatorState(connected=False, since=NOW - 5, last_error="no route to host"),
        dns=DnsState(running=False, last_error="port 53 is taken"),
        repairs={"SetFdb": 2, "ChangePeers": 1},
        refused=1,
        last_reconcile=0,
        warnings=("membership ends in 3 min",),
    )
    lines = tables.status_text(troubled).splitlines()
    assert [lines[2], lines[5], *lines[10:]] == [
        "WireGuard: wireguard-go 0.0.20230223",
        "Coordinator: not connected for 5 s (no route to host)",
        "DNS: not answering (port 53 is taken)",
        "Reconciled: never",
        "Repairs: ChangePeers 1, SetFdb 2",
        "Refused: 1 fact signed but not true",
        "Warning: membership ends in 3 min",
    ]


def test_nodes_are_columns() -> None:
    nodes = [
        NodeInfo(
            id="aa",
            name="a1",
            addresses=("10.213.0.2",),
            not_after=NOW + 90000,
            reachable=True,
            own=True,
        ),
        NodeInfo(
            id="bb",
            name="office-7",
            addresses=("10.213.0.3", "fd::3"),
            not_after=NOW - 60,
            reachable=False,
            endpoint="192.0.2.7:51820",
            version="0.1.0",
            instances=12,
        ),
    ]
    assert text.columns(tables.nodes_table(nodes, NOW)) == (
        "NAME      ID  ADDRESSES         REACHABLE  ENDPOINT         VERSION  INSTANCES  EXPIRES\n"
        "a1        aa  10.213.0.2        self       -                -                0  in 1 d\n"
        "office-7  bb  10.213.0.3 fd::3  no         192.0.2.7:51820  0.1.0           12  1 min ago"
    )


def test_networks_are_columns() -> None:
    networks = [
        NetworkInfo(
            name="default",
            vni=7,
            prefixes=("10.214.0.0/16", "fd00:7::/64"),
            gateways=("10.214.0.1", "fd00:7::1"),
            mtu=1370,
            attachments=5,
            here=2,
        )
    ]
    assert text.columns(tables.networks_table(networks, NOW)) == (
        "NAME     VNI  PREFIXES                   GATEWAYS"
        "               MTU  ATTACHMENTS  HERE  FLOOD\n"
        "default    7  10.214.0.0/16 fd00:7::/64  10.214.0.1 fd00:7::1  1370            5     2  no"
    )


def test_services_have_a_row_for_each_instance_and_say_why_one_is_left_out() -> None:
    web = ServiceInfo(
        service="web",
        network="default",
        dns="web.mesh",
        instances=(
            InstanceInfo(
                node="a1",
                attachment="c1",
                addresses=("10.214.0.5",),
                ports=(PortSpec(number=80, name="http"), PortSpec(number=53, protocol="udp")),
            ),
            InstanceInfo(
                node="b1",
                attachment="c2",
                addresses=("10.214.1.5",),
                answered=False,
                why_not="node b1 is not reachable",
            ),
        ),
    )
    assert text.columns(tables.services_table([web], NOW)) == (
        "SERVICE   NODE  ATTACHMENT  ADDRESSES   PORTS               HEALTHY  ANSWERED\n"
        "web.mesh  a1    c1          10.214.0.5  http:80/tcp 53/udp  yes      yes\n"
        "web.mesh  b1    c2          10.214.1.5  -                   yes"
        "      no: node b1 is not reachable"
    )


def peer() -> PeerInfo:
    return PeerInfo(
        node="bb",
        name="b1",
        public_key=KEY,
        endpoint="192.0.2.7:51820",
        reachable=True,
        last_handshake=NOW - 61,
        received=1536,
        sent=17,
        rtt=0.42,
        mtu=1420,
        candidates=("192.0.2.7:51820 observed", "[2001:db8::7]:51820 local"),
    )


def test_peers_are_columns() -> None:
    assert text.columns(tables.peers_table([peer()], NOW)) == (
        "NAME  ENDPOINT         REACHABLE  HANDSHAKE  RECEIVED  SENT     RTT   MTU  "
        "PUBLIC KEY\n"
        f"b1    192.0.2.7:51820  yes        1 min ago   1.5 KiB  17 B  0.4 ms  1420  {KEY}"
    )


def test_candidates_have_a_row_each_and_the_one_in_use_is_marked() -> None:
    assert text.columns(tables.candidates_table([peer()], NOW)) == (
        "NAME  ENDPOINT             PROVENANCE  USED\n"
        "b1    192.0.2.7:51820      observed    yes\n"
        "b1    [2001:db8::7]:51820  local"
    )


def test_attachments_are_columns() -> None:
    rows = [
        AttachmentInfo(
            network="default",
            name="c1",
            interface="eth1",
            addresses=("10.214.0.5",),
            mac="0a:00:00:00:00:01",
            netns="/run/netns/c1",
            services=("web",),
        ),
        AttachmentInfo(
            network="default",
            name="host",
            interface="mesh-default",
            addresses=(),
            mac="-",
            host=True,
        ),
    ]
    assert text.columns(tables.attachments_table(rows, NOW)) == (
        "NETWORK  NAME  INTERFACE     ADDRESSES   MAC                NAMESPACE      SERVICES\n"
        "default  c1    eth1          10.214.0.5  0a:00:00:00:00:01  /run/netns/c1  web\n"
        "default  host  mesh-default  -           -                  host           -"
    )


def test_an_empty_list_is_its_heading() -> None:
    assert text.columns(tables.candidates_table([], NOW)) == "NAME  ENDPOINT  PROVENANCE  USED"


def test_attach_prints_what_it_gave() -> None:
    given = Attached(
        network="default",
        name="c1",
        interface="eth1",
        addresses=("10.214.0.5/16", "fd00:7::5/64"),
        mac="0a:00:00:00:00:01",
        mtu=1370,
        gateways=("10.214.0.1",),
        dns=("10.214.0.1",),
        names=("c1.web.mesh",),
    )
    assert tables.attached_text(given) == (
        "Attached: c1 to default as eth1\n"
        "Addresses: 10.214.0.5/16 fd00:7::5/64\n"
        "MAC: 0a:00:00:00:00:01, mtu 1370\n"
        "Gateways: 10.214.0.1\n"
        "DNS servers: 10.214.0.1\n"
        "Routes: -\n"
        "Names: c1.web.mesh"
    )


def test_an_answer_looks_like_a_zone_file() -> None:
    answer = DnsAnswer(
        name="web.mesh.",
        type="A",
        rcode="NOERROR",
        answers=(DnsRecord(name="web.mesh.", type="A", ttl=5, data="10.214.0.5"),),
        authority=(DnsRecord(name="mesh.", type="SOA", ttl=5, data="ns.mesh. …"),),
        server="10.213.0.2",
        milliseconds=0.31,
    )
    assert tables.answer_text(answer) == (
        "; web.mesh. A: NOERROR from 10.213.0.2, 0.3 ms\n"
        "web.mesh. 5 IN A 10.214.0.5\n"
        "; authority: mesh. 5 IN SOA ns.mesh. …"
    )


def test_a_reconciliation_says_what_it_did_and_what_failed() -> None:
    result = Reconciled(operations=("remove network x",), failed=("busy",), milliseconds=3.14)
    assert tables.reconciled_text(result) == (
        "1 operation in 3.1 ms\n1  remove network x\nfailed: busy"
    )
    assert tables.reconciled_text(Reconciled(operations=())) == "0 operations in 0.0 ms"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (1, "1 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3600, "1 h"),
        (90000, "1 d"),
    ],
)
def test_a_span_is_told_in_its_largest_whole_unit(seconds: float, said: str) -> None:
    assert text.span(seconds) == said


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1 << 20, "1.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (1 << 41, "2.0 TiB"),
    ],
)
def test_bytes_have_binary_prefixes(octets: int, said: str) -> None:
    assert text.amount(octets) == said
