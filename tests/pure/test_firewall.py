"""Pure. Which foreign rule drops what is ours, told from rules as nft and iptables print them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.linux.foreign import legacy
from meshnet.model.addresses import Endpoint
from meshnet.plan.firewall import Packet, Ruleset, find_drop, merge, parse
from meshnet.plan.packets import frames, host_packets

PEER = (Endpoint.parse("192.0.2.2:51820"), ip_address("10.213.0.2"))
COME, LEAVE, VXLAN_COME, VXLAN_LEAVE, AGENT_COME, AGENT_LEAVE = host_packets(
    51820, "meshnet0", [PEER], [4]
)
DROP: dict[str, Any] = {"drop": None}
ACCEPT: dict[str, Any] = {"accept": None}
Expressions = list[dict[str, Any]]


def match(left: str, right: Any, op: str = "==") -> dict[str, Any]:
    """Write a match as nft's JSON has it: `udp dport`, `meta iifname`, `ct state`."""
    kind, _, key = left.partition(" ")
    sides = {"meta": {"meta": {"key": key}}, "ct": {"ct": {"key": key}}}
    payload = {"payload": {"protocol": kind, "field": key}}
    return {"match": {"op": op, "left": sides.get(kind, payload), "right": right}}


def rules(
    *written: Expressions, hook: str = "input", policy: str = "accept", family: str = "inet"
) -> Ruleset:
    """Return a ruleset of one base chain `block` in table `foreign`, handles from 1."""
    place = {"family": family, "table": "foreign"}
    chain = {**place, "name": "block", "hook": hook, "prio": 0, "policy": policy}
    listed: list[dict[str, Any]] = [{"chain": chain}]
    listed += [
        {"rule": {**place, "chain": "block", "handle": number, "expr": expr}}
        for number, expr in enumerate(written, 1)
    ]
    return parse(listed, {number: f"rule {number + 1}" for number in range(len(written))})


def dropped(found: Ruleset, packet: Packet = COME) -> tuple[int, bool] | None:
    """Return (handle, sure) of the rule that drops, or None."""
    drop = find_drop(found, packet)
    return None if drop is None else (drop.rule.handle, drop.sure)


ON_PORT = match("udp dport", 51820)

CASES: dict[str, tuple[Ruleset, Packet, tuple[int, bool] | None]] = {
    "nothing": (Ruleset(), COME, None),
    "the port": (rules([ON_PORT, DROP]), COME, (1, True)),
    "a reject": (rules([ON_PORT, {"reject": {}}]), COME, (1, True)),
    "another port": (rules([match("udp dport", 53), DROP]), COME, None),
    "all but the port": (rules([match("udp dport", 51820, "!="), DROP]), COME, None),
    "another protocol": (rules([match("tcp dport", 51820), DROP]), COME, None),
    "a set": (rules([match("udp dport", {"set": [1, 51820]}), DROP]), COME, (1, True)),
    "a range": (rules([match("udp dport", {"range": [1, 60000]}), DROP]), COME, (1, True)),
    "more than": (rules([match("udp dport", 1024, ">"), DROP]), COME, (1, True)),
    "transport header": (rules([match("th dport", 51820), DROP]), COME, (1, True)),
    "all UDP": (rules([match("meta l4proto", "udp"), DROP]), COME, (1, True)),
    "IP's protocol": (rules([match("ip protocol", "udp"), DROP]), COME, (1, True)),
    "IPv6 only": (rules([match("meta nfproto", "ipv6"), DROP]), COME, None),
    "an IPv6 header": (rules([match("ip6 nexthdr", "udp"), DROP]), COME, None),
    "the peer": (rules([match("ip saddr", "192.0.2.2"), DROP]), COME, (1, True)),
    "its prefix": (
        rules([match("ip saddr", {"prefix": {"addr": "192.0.2.0", "len": 24}}), DROP]),
        COME,
        (1, True),
    ),
    "another prefix": (
        rules([match("ip saddr", {"prefix": {"addr": "10.0.0.0", "len": 8}}), DROP]),
        COME,
        None,
    ),
    "accepted before": (rules([ON_PORT, ACCEPT], [DROP]), COME, None),
    "accepted after": (rules([DROP], [ON_PORT, ACCEPT]), COME, (1, True)),
    "policy": (rules([match("tcp dport", 22), ACCEPT], policy="drop"), COME, (0, True)),
    "policy, accepted": (rules([ON_PORT, ACCEPT], policy="drop"), COME, None),
    "a limit": (rules([ON_PORT, {"limit": {}}, DROP]), COME, (1, False)),
    "a match of iptables": (
        rules([{"xt": {"type": "match", "name": "u32"}}, DROP]),
        COME,
        (1, False),
    ),
    "established may pass": (
        rules([match("ct state", ["established", "related"], "in"), ACCEPT], policy="drop"),
        COME,
        (0, False),
    ),
    "VXLAN is never established": (
        rules([match("ct state", ["established", "related"], "in"), ACCEPT], policy="drop"),
        VXLAN_COME,
        (0, True),
    ),
    "invalid is never ours": (rules([match("ct state", "invalid", "in"), DROP]), COME, None),
    "loopback only": (rules([match("meta iifname", "lo"), DROP]), COME, None),
    "not from the tunnel": (rules([match("meta iifname", "meshnet0"), DROP]), COME, None),
    "all but loopback": (rules([match("meta iifname", "lo", "!="), DROP]), COME, (1, True)),
    "one interface": (rules([match("meta iifname", "eth0"), DROP]), COME, (1, False)),
    "the tunnel": (rules([match("meta iifname", "meshnet0"), DROP]), VXLAN_COME, (1, True)),
    "tunnels by pattern": (rules([match("meta iifname", "mesh*"), DROP]), VXLAN_COME, (1, True)),
    "another hook": (rules([DROP], hook="output"), COME, None),
    "output": (rules([match("udp sport", 51820), DROP], hook="output"), LEAVE, (1, True)),
    "before routing": (rules([ON_PORT, DROP], hook="prerouting"), COME, (1, True)),
    "the agent's port": (rules([match("udp dport", 7420), DROP]), AGENT_COME, (1, True)),
    "bridge": (rules([DROP], hook="forward", family="bridge"), frames("n"), (1, True)),
    "not of a bridge": (rules([DROP], hook="forward"), frames("n"), None),
    "a map": (
        rules([{"vmap": {"key": ON_PORT["match"]["left"], "data": {"set": [[51820, DROP]]}}}]),
        COME,
        (1, True),
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_the_rule_that_drops_is_found(what: str) -> None:
    found, packet, expected = CASES[what]
    assert dropped(found, packet) == expected


def test_a_chain_that_is_jumped_to_is_followed_and_returned_from() -> None:
    place = {"family": "inet", "table": "foreign"}
    listed: list[dict[str, Any]] = [
        {"chain": {**place, "name": "block", "hook": "input", "prio": 0, "policy": "accept"}},
        {"chain": {**place, "name": "udp"}},
        {"rule": {**place, "chain": "block", "handle": 5, "expr": [{"jump": {"target": "udp"}}]}},
        {"rule": {**place, "chain": "udp", "handle": 6, "expr": [ON_PORT, {"return": None}]}},
        {"rule": {**place, "chain": "udp", "handle": 7, "expr": [DROP]}},
        {"rule": {**place, "chain": "block", "handle": 8, "expr": [DROP]}},
    ]
    assert dropped(parse(listed)) == (8, True)
    assert dropped(parse(listed), LEAVE) is None
    assert dropped(parse(listed), AGENT_COME) == (7, True)


def test_chains_that_jump_in_a_circle_end() -> None:
    place = {"family": "inet", "table": "foreign"}
    listed: list[dict[str, Any]] = [
        {"chain": {**place, "name": "a", "hook": "input", "prio": 0, "policy": "drop"}},
        {"rule": {**place, "chain": "a", "handle": 1, "expr": [{"jump": {"target": "a"}}]}},
    ]
    assert dropped(parse(listed)) == (0, True)


def test_our_own_table_is_not_to_blame() -> None:
    place = {"family": "inet", "table": "meshnet"}
    chain = {**place, "name": "input", "hook": "input", "prio": 0, "policy": "drop"}
    assert dropped(parse([{"chain": chain}])) is None
    inside = chain | {"family": "bridge", "name": "ingress", "hook": "prerouting"}
    assert find_drop(parse([{"chain": inside}]), frames("default")) is None
    foreign = find_drop(parse([{"chain": inside | {"table": "foreign"}}]), frames("default"))
    assert foreign is not None


def test_a_named_set_is_looked_into() -> None:
    named = {"set": {"family": "inet", "table": "foreign", "name": "ports", "elem": [51820]}}
    found = merge(rules([match("udp dport", "@ports"), DROP]), parse([named]))
    assert dropped(found) == (1, True)
    assert dropped(rules([match("udp dport", "@gone"), DROP])) == (1, False)


SAVED = """\
*filter
:INPUT {policy} [0:0]
:BLOCK - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p udp -m udp --dport 51820 -j BLOCK
-A BLOCK {rule}
COMMIT
"""


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("-j DROP", True),
        ("-s 192.0.2.0/24 -j REJECT --reject-with icmp-port-unreachable", True),
        ("-s 10.0.0.0/8 -j DROP", None),
        ("! -s 10.0.0.0/8 -j DROP", True),
        ("-p udp -m udp --sport 1024:65535 -j DROP", True),
        ("-m recent --update -j DROP", False),
        ("-i eth+ -j DROP", False),
        ("-j ACCEPT", None),
    ],
)
def test_legacy_iptables_is_read_as_nft_is(rule: str, expected: bool | None) -> None:
    drop = find_drop(legacy("ip", SAVED.format(policy="ACCEPT", rule=rule)), COME)
    assert (drop and drop.sure) == expected
    if drop is not None:
        assert drop.rule.text == f"-A BLOCK {rule}"
        assert "table ip filter (legacy iptables), chain BLOCK" in str(drop)


def test_legacy_iptables_has_policies_too() -> None:
    drop = find_drop(legacy("ip", SAVED.format(policy="DROP", rule="-s 10.0.0.1 -j DROP")), COME)
    assert drop is not None
    assert (drop.rule.text, drop.sure) == ("policy drop", True)


values = st.one_of(
    st.integers(0, 70000),
    st.sampled_from(["udp", "lo", "eth0", "@x", "192.0.2.2", "*"]),
    st.fixed_dictionaries({"set": st.lists(st.integers(0, 65535), max_size=3)}),
    st.fixed_dictionaries({"range": st.tuples(st.integers(0, 9), st.integers(9, 65535))}),
    st.fixed_dictionaries({"unheard of": st.none()}),
)
lefts = st.sampled_from(
    ["udp dport", "udp sport", "tcp dport", "meta iifname", "meta mark", "ip saddr", "ct state"]
)
matches = st.builds(match, lefts, values, st.sampled_from(["==", "!=", "<", ">", "in", "&"]))
verdicts = st.sampled_from(
    [DROP, ACCEPT, {"return": None}, {"jump": {"target": "block"}}, {"counter": {}}, {"xt": None}]
)


@given(
    st.lists(st.tuples(st.lists(matches, max_size=2), verdicts), max_size=6),
    st.sampled_from(["accept", "drop"]),
)
def test_no_ruleset_confounds_and_without_a_drop_nothing_is_blamed(
    written: list[tuple[Expressions, dict[str, Any]]], policy: str
) -> None:
    found = rules(*([*found, verdict] for found, verdict in written), policy=policy)
    drop = find_drop(found, COME)
    if policy == "accept" and all("drop" not in verdict for _, verdict in written):
        assert drop is None
