"""Pure. The doctor's judgement: from evidence to findings, check by check, in the order of causes.

    identity  clock  map            who we are, when, and whether we know of the other
    underlay  firewall  port  tunnel  peer    what must be there before a handshake
    handshake  MTU  route           whether packets pass, of which size, and whether they are sent
    FDB  neighbour  bridge  container  reach    the network inside, up to the container
    DNS  agent                      names, and who keeps all this in order

Each check is one small function. A later one often fails because an earlier one does, so the first
that is wrong is marked: that is the one to mend.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from meshnet.plan.drift import drift
from meshnet.plan.evidence import Certificate, Evidence, ends_inside
from meshnet.plan.findings import mend, note, ok, skipped, wrong
from meshnet.plan.firewall import Drop, Rule
from meshnet.plan.outward import check_route, check_underlay
from meshnet.plan.state import Peer, PeerStatus
from meshnet.wire.local import Diagnosis, Finding

CLOCK_TOLERANCE = 60
"""Seconds; a coordinator believes a request for as long (see `wire.auth`)."""

Check = Callable[[Evidence], Finding | None]
CONFIRM = "Run meshnet doctor on the other node too."


def diagnose(evidence: Evidence) -> Diagnosis:
    """Return the findings of all checks that apply, the first that is wrong marked."""
    checks = ONLOOKER if evidence.onlooker else CHECKS
    findings = [found for _, check in checks if (found := check(evidence)) is not None]
    marked, seen = [], False
    for found in findings:
        first = found.state == "wrong" and not seen
        seen = seen or first
        marked.append(msgspec.structs.replace(found, first=first))
    me = evidence.me
    return Diagnosis(
        subject=_subject(evidence),
        at=me.name if me else evidence.own,
        findings=tuple(marked),
        agent=evidence.agent,
    )


def _subject(evidence: Evidence) -> str:
    if evidence.peer is None:
        return evidence.me.name if evidence.me else evidence.own
    here = evidence.here.name if evidence.here else "?"
    return f"{here} → {evidence.peer.name}"


# Who we are, when, and whether we know of the other


def check_identity(evidence: Evidence) -> Finding:
    """Our certificate holds, and the tunnel has our key."""
    fault = _certificate_fault("this node", evidence.certificate, evidence)
    if fault:
        do = "Join again with a new token: meshnet down --purge, then meshnet join."
        renew = "Bring a coordinator back: the agent renews by itself while the certificate holds. "
        if _clock_is_off(evidence):
            return wrong("identity", fault, "Mend the clock first: see the next line.")
        return wrong("identity", fault, renew + do if "expired" in fault else do)
    if evidence.foreign_key:
        return wrong(
            "identity", "the tunnel has another private key than this node", mend(evidence)
        )
    membership = evidence.certificate.membership
    assert membership is not None
    return ok("identity", f"member {membership.name} until {_date(membership.not_after)}")


def _certificate_fault(who: str, certificate: Certificate, evidence: Evidence) -> str:
    membership = certificate.membership
    if membership is None:
        return f"{who} has no membership certificate"
    if certificate.revoked:
        return f"the membership of {who} is revoked"
    if membership.not_after <= evidence.now:
        return f"the membership of {who} expired on {_date(membership.not_after)}"
    return "" if membership.node in evidence.view.nodes else f"{who} is no member"


def check_clock(evidence: Evidence) -> Finding:
    """The coordinator's clock and ours agree."""
    if evidence.offset is None:
        why = evidence.no_coordinator or "it was not asked"
        return note("clock", f"no coordinator to compare with: {why}")
    if _clock_is_off(evidence):
        side = "behind" if evidence.offset > 0 else "ahead of"
        return wrong(
            "clock",
            f"our clock is {abs(evidence.offset)} s {side} the coordinator's",
            "Set the clock of the one that is wrong; run NTP on both.",
        )
    return ok("clock", f"{abs(evidence.offset)} s off the coordinator's")


def _clock_is_off(evidence: Evidence) -> bool:
    return evidence.offset is not None and abs(evidence.offset) > CLOCK_TOLERANCE


def check_map(evidence: Evidence) -> Finding | None:
    """The other is in our facts, and our facts are what others know."""
    for end in (evidence.here, evidence.peer):
        if end is not None and end.node is None:
            return _unknown_end(end.word, evidence)
    if evidence.peer is None or evidence.peer.node is None:
        count = len(evidence.view.nodes)
        return ok("map", f"{count} nodes, digest {evidence.digest[:12]}")
    node = evidence.peer.node
    if node.record is None:
        return wrong(
            "map",
            f"{node.name} is a member but has never said how to reach it",
            f"Start its agent: on {node.name}, systemctl start meshnet-agent.",
        )
    apart = _networks_apart(evidence)
    if apart:
        return wrong("map", apart, "Attach both to one network: meshnet attach --network.")
    if evidence.peer_digest and evidence.peer_digest != evidence.digest:
        theirs, ours = evidence.peer_digest[:12], evidence.digest[:12]
        return note("map", f"{node.name} has other facts (digest {theirs}) than we ({ours})")
    count = len(node.attachments)
    return ok("map", f"{node.name} is known, with {count} attachment{'s' * (count != 1)}")


def _unknown_end(word: str, evidence: Evidence) -> Finding:
    if evidence.peer_certificate.membership is not None:
        fault = _certificate_fault(word, evidence.peer_certificate, evidence)
        if fault:
            return wrong("map", fault, f"Have {word} join again with a new token.")
    return wrong(
        "map",
        f"no node, attachment or service {word} is in our facts",
        "See `meshnet nodes` and `meshnet services`; is it attached, and is its agent running?",
    )


def _networks_apart(evidence: Evidence) -> str:
    here, there = evidence.here, evidence.peer
    ours = here.attachment if here else None
    theirs = there.attachment if there else None
    if ours and theirs and ours.network != theirs.network:
        return (
            f"{ours.name} is on network {ours.network} and {theirs.name} on {theirs.network}:"
            " networks are isolated from each other"
        )
    return ""


# What must be there before a handshake


def check_firewall(evidence: Evidence) -> Finding | None:
    """No rule drops our packets, no full table of connections, and our own is as we left it."""
    guilty = [drop for drop in evidence.drops if _is_guilty(drop, evidence)]
    if guilty:
        return wrong("firewall", str(guilty[0]), _lift(guilty[0].rule))
    if evidence.me and drift(evidence, "firewall"):
        return wrong("firewall", "our own table inet meshnet is not as we left it", mend(evidence))
    if evidence.tracked and evidence.tracked[0] >= evidence.tracked[1]:
        return wrong(
            "firewall",
            f"the kernel tracks {evidence.tracked[0]} connections and may track no more: packets of"
            " new ones are dropped",
            "Raise the limit: sysctl -w net.netfilter.nf_conntrack_max=NUMBER.",
        )
    if evidence.drops:
        return note("firewall", f"{evidence.drops[0]}; yet packets pass")
    return ok("firewall", "no rule drops what is ours")


def _is_guilty(drop: Drop, evidence: Evidence) -> bool:
    """A rule is not to blame for packets that are seen to pass, and a vague one only for others."""
    answered = evidence.tried.answered if evidence.peer else _all_answer(evidence)
    return answered is False or (drop.sure and not (drop.packet.tested and answered))


def _all_answer(evidence: Evidence) -> bool | None:
    """Say whether every peer is reached; None where there is no peer to tell by."""
    others = [n for n in evidence.view.nodes.values() if n.record and n.id != evidence.own]
    return not evidence.unreachable if others else None


def _lift(rule: Rule) -> str:
    if "legacy" in rule.table and rule.expressions:
        table = rule.table.split()[0]
        program = "iptables-legacy" if rule.family == "ip" else "ip6tables-legacy"
        return f"Delete it: {program} -t {table} -D {rule.text.removeprefix('-A ')}"
    if not rule.handle:
        return "Accept the packets in that chain, before its policy applies."
    words = f"nft delete rule {rule.family} {rule.table} {rule.chain} handle {rule.handle}"
    return f"Delete it ({words}), or accept the packets before it."


def check_port(evidence: Evidence) -> Finding | None:
    """WireGuard has its UDP port."""
    tunnel = evidence.have.tunnel
    if evidence.me is None or evidence.want.tunnel is None:
        return skipped("port", "not judged while this node is no member")
    wanted = evidence.want.tunnel.listen_port
    if evidence.port_taken:
        return wrong(
            "port",
            f"UDP port {wanted} is held by another program",
            f"See which: ss -lunp 'sport = {wanted}'. End it, or restart the agent: it takes"
            " the next free port.",
        )
    if tunnel is None:
        return None
    if tunnel.up and tunnel.listen_port and not evidence.port_open:
        port = tunnel.listen_port
        return wrong("port", f"nobody listens on UDP port {port}", mend(evidence))
    return ok("port", f"WireGuard listens on UDP port {tunnel.listen_port or wanted}")


def check_tunnel(evidence: Evidence) -> Finding | None:
    """The device is there, up, and has our addresses."""
    if evidence.unread:
        why, do = evidence.unread
        return wrong("tunnel", f"the kernel cannot be read: {why}", do or "Run this as root.")
    if evidence.me is None:
        return skipped("tunnel", "not judged while this node is no member")
    missing = drift(evidence, "tunnel")
    if missing:
        return wrong("tunnel", "; ".join(missing), mend(evidence))
    tunnel = evidence.have.tunnel
    assert tunnel is not None
    addresses = " ".join(sorted(str(address.ip) for address in tunnel.addresses))
    return ok("tunnel", f"{tunnel.name} is up, mtu {tunnel.mtu}, {addresses}")


def check_peer(evidence: Evidence) -> Finding | None:
    """The peer, or every peer, is on the device with its allowed IPs."""
    if evidence.me is None or evidence.local or _peer_unknown(evidence):
        return None
    missing = drift(evidence, "peer")
    if missing:
        return wrong("peer", "; ".join(missing[:5]), mend(evidence))
    return ok("peer", "allowed IPs are as they should be")


def _peer_unknown(evidence: Evidence) -> bool:
    peer = evidence.peer
    return peer is not None and (peer.node is None or peer.node.record is None)


# Whether packets pass, of which size, and whether they are sent


def check_handshake(evidence: Evidence) -> Finding | None:
    """The other answers inside the tunnel; if not, the handshake tells where it ends."""
    if evidence.peer is None:
        return _reach(evidence)
    if evidence.local or _peer_unknown(evidence) or evidence.me is None:
        return None
    assert evidence.peer.node is not None and evidence.peer.node.record is not None
    name, record = evidence.peer.node.name, evidence.peer.node.record
    tunnel, key = evidence.have.tunnel, record.wireguard[0]
    peer = tunnel.peers.get(key, Peer(frozenset())) if tunnel else Peer(frozenset())
    status = tunnel.status.get(key, PeerStatus()) if tunnel else PeerStatus()
    age = int(evidence.now - status.last_handshake)
    how_old = (
        f"the last handshake was {max(0, age)} s ago"
        if status.last_handshake
        else ("there was no handshake yet")
    )
    if evidence.tried.answered:
        return ok("handshake", f"{name} answers through {peer.endpoint}; {how_old}")
    known = [candidate.endpoint for candidate in record.candidates]
    if peer.endpoint is not None and known and peer.endpoint not in known:
        listed = ", ".join(map(str, known))
        return wrong(
            "handshake",
            f"{name} does not answer at endpoint {peer.endpoint}, which is none of its own"
            f" ({listed}); {how_old}",
            mend(evidence),
        )
    if evidence.tried.answered is None:
        return skipped("handshake", f"not tried; {how_old}")
    where = f"at {peer.endpoint}" if peer.endpoint else "and has no endpoint"
    return wrong(
        "handshake",
        f"{name} does not answer {where}; {how_old}",
        f"Let UDP through between the two; is {name} up? {CONFIRM}",
    )


def check_vantage(evidence: Evidence) -> Finding:
    """Somebody else is asked than the two ends."""
    assert evidence.here is not None and evidence.peer is not None
    ends = [end.node.name for end in (evidence.here, evidence.peer) if end.node]
    return note(
        "vantage",
        f"this node is neither {evidence.here.word} nor {evidence.peer.word}, and sees little",
        f"Run the same on {' or '.join(ends)}." if ends else "",
    )


def _reach(evidence: Evidence) -> Finding | None:
    if evidence.me is None:
        return None
    if evidence.unreachable:
        names = ", ".join(evidence.unreachable[:10])
        return wrong(
            "handshake",
            f"not reached: {names}",
            f"See why: meshnet doctor {evidence.me.name} {evidence.unreachable[0]}",
        )
    whom = "both are" if evidence.onlooker else "every peer is"
    return ok("handshake", f"{whom} reached from here")


def check_mtu(evidence: Evidence) -> Finding | None:
    """Packets of full size pass."""
    tried = evidence.tried
    if evidence.peer is None or evidence.local or not tried.answered or tried.passes is None:
        return None
    if tried.passes:
        return ok("MTU", f"packets of {tried.size} bytes pass")
    fits = f"of {tried.largest} bytes do" if tried.largest else "small ones do"
    return wrong(
        "MTU",
        f"packets of {tried.size} bytes do not pass the tunnel, {fits}:"
        " something on the path drops large packets and says nothing",
        "Find the link with the smaller MTU, or lower that of this host's underlay link:"
        " the mesh follows.",
    )


# The network inside the tunnel


def _inside(check: str, fine: str) -> Check:
    def judge(evidence: Evidence) -> Finding | None:
        if evidence.me is None or not evidence.want.segments:
            return None
        missing = drift(evidence, check)
        if missing:
            return wrong(check, "; ".join(missing[:5]), mend(evidence))
        return ok(check, fine)

    return judge


def check_container(evidence: Evidence) -> Finding | None:
    """The host is on the networks it should be on, and every interface has its addresses."""
    if evidence.absent:
        text, do = evidence.absent
        return wrong("container", text, do or "The agent tries again by itself; see its log.")
    return _inside("container", "every interface has its addresses")(evidence)


def check_reach(evidence: Evidence) -> Finding | None:
    """The other attachment answers ours over the network, all the way."""
    ends = ends_inside(evidence)
    if ends is None or evidence.tried.reached is None:
        return None
    ours, theirs = ends
    if evidence.tried.reached:
        return ok("reach", f"{theirs.name} answers {ours.name} at {theirs.addresses[0]}")
    where = evidence.peer.node.name if evidence.peer and evidence.peer.node else "its node"
    return wrong(
        "reach",
        f"{theirs.name} does not answer an echo from {ours.name} at {theirs.addresses[0]}",
        f"If nothing is wrong above, the fault is at its end: run the same on {where}.",
    )


# Names, and who keeps all this in order


def check_dns(evidence: Evidence) -> Finding | None:
    """Our DNS server answers, and says what it should."""
    for asked in evidence.asked:
        if asked.error:
            return wrong("DNS", f"{asked.server}: {asked.error}", _restart_dns(evidence))
        if asked.expected and not asked.expected & asked.answers:
            got = " ".join(sorted(asked.answers)) or asked.rcode
            expected = " ".join(sorted(asked.expected))
            return wrong(
                "DNS",
                f"{asked.name} is {got} at {asked.server}, should be {expected}",
                _restart_dns(evidence),
            )
    if not evidence.asked:
        return None
    names = ", ".join(asked.name for asked in evidence.asked)
    return ok("DNS", f"{evidence.asked[0].server} answers {names}")


def check_agent(evidence: Evidence) -> Finding:
    """The agents at both ends run, and ours can write down what it is told."""
    peer = evidence.peer.node if evidence.peer else None
    if not evidence.agent:
        return wrong(
            "agent",
            "the agent does not answer: nothing is repaired, renewed or learned",
            "Start it: systemctl restart meshnet-agent; look into its log.",
        )
    if evidence.unwritten:
        return wrong(
            "agent",
            evidence.unwritten,
            "Free disk space or mend the file system: the agent tries again by itself.",
        )
    if evidence.tried.agent_down and peer is not None:
        return wrong(
            "agent",
            f"the agent of {peer.name} is down; its tunnel and containers go on without it",
            f"Start it: on {peer.name}, systemctl start meshnet-agent.",
        )
    both = peer is not None and not evidence.local and evidence.tried.answered
    return ok("agent", "runs on both ends" if both else "runs")


def _restart_dns(evidence: Evidence) -> str:
    return (
        "End the process `meshnet.dns`: the agent starts it again."
        if evidence.agent
        else "Start the agent, which looks after the DNS server: systemctl restart meshnet-agent."
    )


def _date(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%MZ")


CHECKS: tuple[tuple[str, Check], ...] = (
    ("identity", check_identity),
    ("clock", check_clock),
    ("map", check_map),
    ("underlay", check_underlay),
    ("firewall", check_firewall),
    ("port", check_port),
    ("tunnel", check_tunnel),
    ("peer", check_peer),
    ("handshake", check_handshake),
    ("MTU", check_mtu),
    ("route", check_route),
    ("FDB", _inside("FDB", "every remote MAC leads to its node")),
    ("neighbour", _inside("neighbour", "every remote address has its MAC")),
    ("bridge", _inside("bridge", "every port is wired to its bridge")),
    ("container", check_container),
    ("reach", check_reach),
    ("DNS", check_dns),
    ("agent", check_agent),
)
"""Every check, in the order of causes: what fails earlier explains what fails later."""

ONLOOKER: tuple[tuple[str, Check], ...] = (
    ("vantage", check_vantage),
    *CHECKS[:3],
    ("handshake", _reach),
)
"""What a third node can tell of two others."""
