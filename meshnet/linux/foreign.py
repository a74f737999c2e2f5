"""Driver. What others have put in our packets' way: nft rules, iptables rules, sockets on our port.

nft lists the rules of iptables-nft as well. Those of legacy iptables are another engine, whose
rules only its own `save` lists; they are brought into the same form. Reading is all that is done.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from meshnet.plan.firewall import Ruleset, merge, parse

TIME_LIMIT = 10
ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
LEGACY = {"ip": "iptables-legacy-save", "ip6": "ip6tables-legacy-save"}
LOADED = {
    "ip": "/proc/thread-self/net/ip_tables_names",
    "ip6": "/proc/thread-self/net/ip6_tables_names",
}
HOOKS = {
    "PREROUTING": "prerouting",
    "INPUT": "input",
    "FORWARD": "forward",
    "OUTPUT": "output",
    "POSTROUTING": "postrouting",
}


def rules() -> Ruleset:
    """Return all packet filter rules of the namespace the calling thread is in."""
    found = _nft_rules()
    for family, program in LEGACY.items():
        # Asking would load the module; the tables in use are listed here, by root's leave.
        with suppress(OSError):
            if Path(LOADED[family]).read_text().strip():
                found = merge(found, legacy(family, output(program)))
    return found


def _nft_rules() -> Ruleset:
    listed = output("nft", "-j", "list", "ruleset")
    if not listed:
        return Ruleset()
    return parse(json.loads(listed)["nftables"], dict(enumerate(_texts(listed))))


def _texts(listed: str) -> Iterator[str]:
    """Yield the rules' own words, in the order of the JSON listing."""
    texts: dict[tuple[str, str, str, int], str] = {}
    family, table, chain = "", "", ""
    for line in output("nft", "-a", "list", "ruleset").splitlines():
        words = line.split()
        if words[:1] == ["table"]:
            family, table = words[1], words[2]
        elif words[:1] == ["chain"]:
            chain = words[1]
        elif " # handle " in line:
            text, _, handle = line.strip().rpartition(" # handle ")
            texts[family, table, chain, int(handle)] = text
    for item in json.loads(listed)["nftables"]:
        if "rule" in item:
            rule = item["rule"]
            key = (rule["family"], rule["table"], rule["chain"], rule["handle"])
            yield texts.get(key, "")


def output(*command: str) -> str:
    """Return what a program prints; '' when it is missing, fails or does not end."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIME_LIMIT,
            check=False,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def legacy(family: str, saved: str) -> Ruleset:
    """Read what iptables-save prints, into the form nft's JSON has."""
    listed: list[dict[str, Any]] = []
    texts: list[str] = []
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = f"{line[1:]} (legacy iptables)"
        elif line.startswith(":"):
            listed.append({"chain": _legacy_chain(family, table, line)})
        elif line.startswith("-A "):
            words = shlex.split(line)
            rule = {"family": family, "table": table, "chain": words[1]}
            listed.append({"rule": {**rule, "expr": list(_legacy_expressions(family, words[2:]))}})
            texts.append(line)
    return parse(listed, dict(enumerate(texts)))


def _legacy_chain(family: str, table: str, line: str) -> dict[str, Any]:
    name, policy = line[1:].split()[:2]
    chain = {"family": family, "table": table, "name": name, "policy": policy.lower()}
    return {**chain, "hook": HOOKS[name]} if name in HOOKS else chain


def _legacy_expressions(family: str, words: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield matches and verdict; what is not known becomes an expression nobody can judge."""
    protocol, rest = "th", list(words)
    while rest:
        word = rest.pop(0)
        op = "=="
        if word == "!":
            op, word = "!=", rest.pop(0)
        if word == "-m":
            rest.pop(0)
        elif word == "-p":
            protocol = rest.pop(0)
            yield _match(op, {"meta": {"key": "l4proto"}}, protocol)
        elif word in ("-i", "-o"):
            key = "iifname" if word == "-i" else "oifname"
            yield _match(op, {"meta": {"key": key}}, rest.pop(0).replace("+", "*"))
        elif word in ("-s", "-d"):
            field = {"protocol": family, "field": "saddr" if word == "-s" else "daddr"}
            addr, _, length = rest.pop(0).partition("/")
            prefix = {
                "prefix": {"addr": addr, "len": int(length or (32 if family == "ip" else 128))}
            }
            yield _match(op, {"payload": field}, prefix)
        elif word in ("--dport", "--sport"):
            low, _, high = rest.pop(0).partition(":")
            value: Any = {"range": [int(low), int(high)]} if high else int(low)
            yield _match(op, {"payload": {"protocol": protocol, "field": word[2:]}}, value)
        elif word in ("-j", "-g"):
            yield _legacy_verdict(rest.pop(0), goto=word == "-g")
            return
        else:
            yield {"unknown": word}


def _match(op: str, left: Any, right: Any) -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def _legacy_verdict(target: str, *, goto: bool) -> dict[str, Any]:
    if target in ("DROP", "REJECT"):
        return {"drop": None}
    if target in ("ACCEPT", "RETURN"):
        return {target.lower(): None}
    return {"goto" if goto else "jump": {"target": target}}
