"""Pure. Which rule of somebody else's drops a packet of ours, as far as reading the rules can tell.

A ruleset is what `nft -j list ruleset` says, with the rules' text beside it, and what legacy
iptables says in the same form. A packet is known in part: its ports and protocol, perhaps its
addresses, the interface it is on or is not on. So a match holds, does not hold, or cannot be told;
the chains of the packet's hooks are walked the way the kernel does (nft(8)), and what comes out is
the rule that drops it for sure, else the first that may, else None. Our own table is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from meshnet.plan.state import NFT_TABLE

PATHS = {
    "input": ("prerouting", "input"),
    "output": ("output", "postrouting"),
    "forward": ("prerouting", "forward", "postrouting"),
}
"""The hooks that a packet passes, by the direction it goes."""

OURS = frozenset({("inet", NFT_TABLE), ("bridge", NFT_TABLE)})
FAMILIES = {4: ("inet", "ip"), 6: ("inet", "ip6"), 0: ("bridge",)}
"""The families of tables that see a packet, by IP version; 0 is a frame on a bridge."""

Value = int | str


@dataclass(frozen=True, slots=True)
class Packet:
    """One kind of packet. `what` names it for people; `version` 0 is a frame on a bridge.

    `fields` maps such as `udp dport` or `meta iifname` to the value it has, `other` to values that
    it does not have; what is in neither is not known. `tested`: an echo from the peer proves that
    such packets pass.
    """

    what: str
    path: str
    version: int
    fields: Mapping[str, Value] = field(default_factory=dict)
    other: Mapping[str, frozenset[Value]] = field(default_factory=dict)
    tested: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: its place, its text, and its expressions as nft's JSON has them."""

    family: str
    table: str
    chain: str
    handle: int
    text: str
    expressions: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain; `hook` is '' for one that is only jumped to."""

    family: str
    table: str
    name: str
    hook: str = ""
    priority: int = 0
    policy: str = "accept"
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Chains by (family, table, name), and elements of named sets by the same."""

    chains: Mapping[tuple[str, str, str], Chain] = field(default_factory=dict)
    sets: Mapping[tuple[str, str, str], Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drop:
    """A rule that drops `packet`; `sure` unless it has a match that we cannot judge."""

    packet: Packet
    rule: Rule
    sure: bool = True

    @property
    def where(self) -> str:
        place = f"table {self.rule.family} {self.rule.table}, chain {self.rule.chain}"
        return f"{place}, handle {self.rule.handle}" if self.rule.handle else place

    def __str__(self) -> str:
        return (
            f"{self.packet.what} {'are' if self.sure else 'may be'} dropped by {self.where}: "
            + (self.rule.text)
        )


def parse(listed: Iterable[Mapping[str, Any]], texts: Mapping[int, str] | None = None) -> Ruleset:
    """Read nft's JSON; `texts` are the rules' own words, by their order in the listing."""
    chains: dict[tuple[str, str, str], Chain] = {}
    rules: dict[tuple[str, str, str], list[Rule]] = {}
    sets: dict[tuple[str, str, str], Sequence[Any]] = {}
    number = 0
    for item in listed:
        for kind, body in item.items():
            if kind == "chain":
                chain = _chain(body)
                chains[chain.family, chain.table, chain.name] = chain
            elif kind == "rule":
                rule = _rule(body, (texts or {}).get(number, ""))
                rules.setdefault((rule.family, rule.table, rule.chain), []).append(rule)
                number += 1
            elif kind == "set":
                sets[body["family"], body["table"], body["name"]] = body.get("elem", [])
    full = {
        key: Chain(c.family, c.table, c.name, c.hook, c.priority, c.policy, tuple(rules[key]))
        if key in rules
        else c
        for key, c in chains.items()
    }
    return Ruleset(full, sets)


def merge(one: Ruleset, other: Ruleset) -> Ruleset:
    """Return both; the kernel asks both, nft's and legacy iptables' rules."""
    return Ruleset({**one.chains, **other.chains}, {**one.sets, **other.sets})


def _chain(body: Mapping[str, Any]) -> Chain:
    return Chain(
        body["family"],
        body["table"],
        body["name"],
        body.get("hook", ""),
        int(body.get("prio", 0)),
        body.get("policy", "accept"),
    )


def _rule(body: Mapping[str, Any], text: str) -> Rule:
    handle = int(body.get("handle", 0))
    expressions = tuple(body.get("expr", ()))
    return Rule(body["family"], body["table"], body["chain"], handle, text, expressions)


def find_drop(rules: Ruleset, packet: Packet) -> Drop | None:
    """Return what drops the packet for sure, else what may, else None."""
    suspect: Drop | None = None
    for hook in PATHS[packet.path]:
        bases = [
            chain
            for chain in rules.chains.values()
            if chain.hook == hook
            and chain.family in FAMILIES[packet.version]
            and (chain.family, chain.table) not in OURS
        ]
        for base in sorted(bases, key=lambda chain: chain.priority):
            found = _Walk(rules, packet).base(base)
            if found is not None and found.sure:
                return found
            suspect = suspect or found
    return suspect


class _Walk:
    """One packet's way through one base chain."""

    def __init__(self, rules: Ruleset, packet: Packet) -> None:
        self._rules = rules
        self._packet = packet
        self._sure = True
        self._suspect: Drop | None = None

    def base(self, chain: Chain) -> Drop | None:
        verdict = self._walk(chain, True, frozenset())
        if isinstance(verdict, Drop):
            return verdict
        if verdict == "" and chain.policy == "drop":
            policy = Rule(chain.family, chain.table, chain.name, 0, "policy drop")
            if self._sure:
                return Drop(self._packet, policy)
            self._suspect = self._suspect or Drop(self._packet, policy, sure=False)
        return self._suspect

    def _walk(self, chain: Chain, sure: bool, way: frozenset[str]) -> Drop | str:
        """Return a sure Drop, 'accept' when that is sure, else ''; `way` leads to the chain."""
        for rule in chain.rules:
            holds = self._matches(rule)
            if holds is False:
                continue
            certain = sure and holds is True
            kind, target = self._verdict(rule)
            if kind == "drop":
                found = Drop(self._packet, rule, certain and self._sure)
                if found.sure:
                    return found
                self._suspect = self._suspect or found
            elif kind == "accept" and certain:
                return "accept"
            elif kind in ("jump", "goto") and target not in {*way, chain.name}:
                key = (chain.family, chain.table, target)
                if key in self._rules.chains:
                    verdict = self._walk(self._rules.chains[key], certain, way | {chain.name})
                    if verdict:
                        return verdict
                if kind == "goto" and certain:
                    return ""
            elif kind == "return" and certain:
                return ""
            if kind in ("accept", "return", "goto") and not certain:
                self._sure = False
        return ""

    def _matches(self, rule: Rule) -> bool | None:
        answers = [self._holds(rule, one) for one in rule.expressions]
        if False in answers:
            return False
        return None if None in answers else True

    def _holds(self, rule: Rule, expression: Any) -> bool | None:
        """Say whether an expression lets the rule go on; None when that cannot be told."""
        if not isinstance(expression, dict):
            return True
        if "match" in expression:
            match = expression["match"]
            return self._compare(rule, match["op"], match["left"], match["right"])
        if expression.get("xt"):
            return True if expression["xt"].get("type") == "target" else None
        return None if {"limit", "quota", "unknown"} & expression.keys() else True

    def _compare(self, rule: Rule, op: str, left: Any, right: Any) -> bool | None:
        name = _name_of(left)
        if name == "ct state":
            return _state_holds(op, right, self._packet.fields.get(name))
        if name is None or not self._applies(name):
            return None if name is None else False
        value = self._value(name)
        if value is None:
            inside = self._excluded(rule, name, right)
            return inside if inside is None else (inside if op == "!=" else not inside)
        if op in ("<", ">", "<=", ">="):
            return _ordered(op, value, right)
        inside = _contains(value, right, self._elements(rule))
        return inside if inside is None or op != "!=" else not inside

    def _excluded(self, rule: Rule, name: str, right: Any) -> bool | None:
        """Return True when all that `right` names is known not to be the value."""
        other = self._packet.other.get(_plain(name))
        named = _listed(right, self._elements(rule))
        return True if other and named and set(named) <= other else None

    def _applies(self, name: str) -> bool:
        """A match on another protocol's header never holds."""
        protocol = name.split()[0]
        if protocol in ("ip", "ip6") and self._packet.version:
            return protocol == ("ip" if self._packet.version == 4 else "ip6")
        known = self._packet.fields.get("meta l4proto")
        kinds = ("tcp", "udp", "sctp", "dccp", "udplite", "icmp", "icmpv6", "esp", "ah")
        return protocol not in kinds or known is None or protocol == known

    def _value(self, name: str) -> Value | None:
        known = self._packet.fields
        if name in ("ip protocol", "ip6 nexthdr"):
            name = "meta l4proto"
        if name == "meta nfproto":
            return {4: "ipv4", 6: "ipv6"}.get(self._packet.version)
        if name.startswith("th ") and "meta l4proto" in known:
            name = f"{known['meta l4proto']} {name[3:]}"
        return known.get(_plain(name))

    def _elements(self, rule: Rule) -> Mapping[str, Sequence[Any]]:
        return {
            name: elements
            for (family, table, name), elements in self._rules.sets.items()
            if (family, table) == (rule.family, rule.table)
        }

    def _verdict(self, rule: Rule) -> tuple[str, str]:
        for expression in rule.expressions:
            if isinstance(expression, dict):
                found = _plain_verdict(expression) or self._mapped(rule, expression)
                if found:
                    return found
        return "", ""

    def _mapped(self, rule: Rule, expression: Mapping[str, Any]) -> tuple[str, str] | None:
        if "vmap" not in expression:
            return None
        vmap = expression["vmap"]
        name, data = _name_of(vmap["key"]), vmap["data"]
        value = None if name is None else self._value(name)
        entries = data.get("set", []) if isinstance(data, dict) else []
        for key, verdict in entries:
            if value is not None and _contains(value, key, self._elements(rule)):
                return _plain_verdict(verdict)
        return None


def _plain_verdict(expression: Mapping[str, Any]) -> tuple[str, str] | None:
    if "drop" in expression or "reject" in expression:
        return "drop", ""
    xt = expression.get("xt")
    if xt and xt.get("type") == "target" and xt.get("name") in ("REJECT", "DROP", "TARPIT"):
        return "drop", ""
    for kind in ("accept", "return"):
        if kind in expression:
            return kind, ""
    for kind in ("jump", "goto"):
        if kind in expression:
            return kind, expression[kind]["target"]
    return None


def _name_of(left: Any) -> str | None:
    """Return `udp dport`, `meta iifname`, `ct state`, or None for what we do not read."""
    if not isinstance(left, dict):
        return None
    if "payload" in left and "protocol" in left["payload"]:
        return f"{left['payload']['protocol']} {left['payload']['field']}"
    if "meta" in left:
        return f"meta {left['meta']['key']}"
    return f"ct {left['ct']['key']}" if "ct" in left and "dir" not in left["ct"] else None


def _plain(name: str) -> str:
    return {"meta iif": "meta iifname", "meta oif": "meta oifname"}.get(name, name)


def _state_holds(op: str, right: Any, known: Value | None) -> bool | None:
    """Our packets belong to flows that are new or established; never are they invalid."""
    states = set(_listed(right, {}))
    if known is not None:
        return (known in states) != (op == "!=")
    if op == "!=":
        return True if states and states <= {"invalid", "untracked"} else None
    if states >= {"new", "established"}:
        return True
    return False if states and states <= {"invalid", "untracked"} else None


def _listed(right: Any, sets: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Return the values a right side names, as far as they are plain."""
    if isinstance(right, str) and right.startswith("@"):
        right = {"set": sets.get(right[1:], [])}
    if isinstance(right, dict) and "set" in right:
        right = right["set"]
    values = right if isinstance(right, list | tuple) else [right]
    return [_unwrapped(value) for value in values if isinstance(_unwrapped(value), int | str)]


def _unwrapped(value: Any) -> Any:
    return value["elem"]["val"] if isinstance(value, dict) and "elem" in value else value


def _contains(value: Value, right: Any, sets: Mapping[str, Sequence[Any]]) -> bool | None:
    """Say whether `value` is one of those that `right` names."""
    if isinstance(right, str) and right.startswith("@"):
        return _contains(value, {"set": sets[right[1:]]}, sets) if right[1:] in sets else None
    right = _unwrapped(right)
    if isinstance(right, dict) and "set" in right:
        return _any(_contains(value, one, sets) for one in right["set"])
    if isinstance(right, list | tuple):
        return _any(_contains(value, one, sets) for one in right)
    if isinstance(right, dict) and "range" in right:
        return _between(value, right["range"])
    if isinstance(right, dict) and "prefix" in right:
        prefix = ip_network(f"{right['prefix']['addr']}/{right['prefix']['len']}", strict=False)
        return ip_address(value) in prefix
    if isinstance(right, str) and right.endswith("*"):
        return str(value).startswith(right[:-1])
    return str(value) == str(right) if isinstance(right, int | str) else None


def _any(answers: Iterable[bool | None]) -> bool | None:
    listed = list(answers)
    if True in listed:
        return True
    return None if None in listed else False


def _between(value: Value, ends: Sequence[Value]) -> bool | None:
    low, high = ends
    if isinstance(value, int) and isinstance(low, int) and isinstance(high, int):
        return low <= value <= high
    try:
        return int(ip_address(low)) <= int(ip_address(value)) <= int(ip_address(high))
    except ValueError:
        return None


def _ordered(op: str, value: Value, right: Any) -> bool | None:
    if not isinstance(value, int) or not isinstance(right, int):
        return None
    return {
        "<": value < right,
        ">": value > right,
        "<=": value <= right,
        ">=": value >= right,
    }[op]
