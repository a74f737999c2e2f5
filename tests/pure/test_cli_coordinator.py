"""The command line against a real coordinator on loopback, from init to a revoked token."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from meshnet.wire.token import Token, read_token, write_token
from tests.lab.waiting import wait_until

RUN = [sys.executable, "-c", "from meshnet.cli.main import run; run()"]


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Place:
    """A directory for everything of one coordinator."""

    path: Path

    def meshnet(self, *words: str, node: str = "", input: str = "") -> Said:
        """Run a command; `node` names the state directory of a machine of its own."""
        state = self.path / (node or "state")
        where = ["--state-dir", str(state), "--run-dir", str(self.path / "run")]
        result = subprocess.run(
            [*RUN, *where, *words],
            input=input,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Said(result.returncode, result.stdout, result.stderr)

    def join(self, token: str, node: str) -> Said:
        return self.meshnet(
            "join", "-", "--name", node, "--no-start", node=node, input=token + "\n"
        )

    def token(self, *options: str) -> str:
        return self.meshnet("token", "create", *options).out.strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("coordinator"))
    port = free_port()
    url, listen = f"https://127.0.0.1:{port}", f"127.0.0.1:{port}"
    made = place.meshnet("coordinator", "init", "--url", url, "--listen", listen)
    assert made.code == 0, made.err
    where = ["--state-dir", str(place.path / "state"), "--run-dir", str(place.path / "run")]
    with (place.path / "log").open("w") as log:
        process = subprocess.Popen([*RUN, *where, "coordinator", "run"], stderr=log)
    try:
        wait_until(lambda: place.meshnet("token", "list").code == 0, 30, "the coordinator answers")
        yield place
    finally:
        process.terminate()
        assert process.wait(30) == 0


def altered(token: str, **changes: object) -> str:
    """Return a token that is whole but says something else."""
    read: Token = read_token(token)
    return write_token(replace(read, **changes))  # type: ignore[arg-type]


def test_a_second_init_changes_nothing(place: Place) -> None:
    again = place.meshnet("coordinator", "init")
    assert (again.code, again.out) == (4, "")
    assert "there is a coordinator in" in again.err


def test_a_token_is_printed_alone_and_listed_without_its_secret(place: Place) -> None:
    made = place.meshnet("token", "create", "--ttl", "2h", "--uses", "3", "--tag", "office")
    assert made.code == 0
    assert read_token(made.out.strip()).urls[0].startswith("https://127.0.0.1:")
    assert made.out.count("\n") == 1
    listed = place.meshnet("token", "list", "--json").out
    assert made.out.strip() not in listed
    [token] = [t for t in json.loads(listed) if t["tags"] == ["office"]]
    assert (token["state"], token["uses"], token["used"]) == ("valid", 3, 0)
    assert token["expires"] - token["created"] == 7200


def test_joining_makes_a_member_with_keys_only_it_can_read(place: Place) -> None:
    joined = place.join(place.token(), "n1")
    assert joined.code == 0, joined.err
    assert joined.out.startswith("n1 is a node of the mesh: 10.213.")
    keys = place.path / "n1" / "keys.json"
    assert keys.stat().st_mode & 0o777 == 0o600
    members = json.loads(place.meshnet("node", "list", "--json").out)
    assert [member["state"] for member in members if member["name"] == "n1"] == ["silent"]


def test_a_name_that_is_taken_is_a_conflict(place: Place) -> None:
    assert place.join(place.token(), "twin").code == 0
    again = place.meshnet(
        "join", "-", "--name", "twin", "--no-start", node="other", input=place.token()
    )
    assert again.code == 4
    assert "'twin'" in again.err


def test_every_way_a_token_can_be_wrong_has_its_own_code_and_message(place: Place) -> None:
    good, used, ended = place.token(), place.token(), place.token("--ttl", "1s")
    revoked = json.loads(place.meshnet("token", "create", "--json").out)
    assert place.join(used, "first").code == 0
    assert place.meshnet("token", "revoke", revoked["id"]).code == 0
    wait_until(lambda: "expired" in place.meshnet("token", "list").out, 30, "the token expires")
    middle = len(good) // 2
    other = "A" if good[middle] != "A" else "B"
    wrong = {
        "mnt1.": 10,
        good[:-20]: 10,
        good[:middle] + other + good[middle + 1 :]: 11,
        "rubbish": 11,
        altered(good, secret=bytes(16)): 12,
        ended: 13,
        revoked["text"]: 14,
        used: 15,
        altered(good, pins=("00" * 32,)): 16,
    }
    answers = {token: place.join(token, "late") for token in wrong}
    assert {token: said.code for token, said in answers.items()} == wrong
    errors = [said.err.partition("error: ")[2] for said in answers.values()]
    assert all("\nhint: " in error for error in errors)
    assert len(set(errors)) == len(errors), errors
    secrets = [token for token in wrong if len(token) > 20]
    log = (place.path / "log").read_text()
    assert not [token for token in secrets if token in log + "".join(errors)]
    assert place.join(good, "late").code == 0


def test_networks_and_records_are_made_and_taken_away(place: Place) -> None:
    made = place.meshnet("network", "create", "blue", "--prefix", "10.20.0.0/16", "--json")
    assert json.loads(made.out)["prefixes"][0] == "10.20.0.0/16"
    assert place.meshnet("network", "create", "blue").code == 4
    assert place.meshnet("network", "rm", "blue").out == "network blue is removed\n"
    assert place.meshnet("network", "rm", "blue").code == 3

    assert place.meshnet("dns", "set", "printer.mesh", "a", "192.0.2.9").code == 0
    assert place.meshnet("dns", "set", "printer", "A", "nonsense").code == 2
    assert place.meshnet("dns", "list").out == (
        "NAME     TYPE  TTL  VALUES\nprinter  A      60  192.0.2.9\n"
    )
    assert place.meshnet("dns", "unset", "printer", "A").code == 0
    assert place.meshnet("dns", "unset", "printer", "A").code == 3


def test_a_revoked_node_is_no_member_and_a_revocation_is_asked_for(place: Place) -> None:
    assert place.join(place.token(), "gone").code == 0
    unsure = place.meshnet("node", "revoke", "gone", input="n\n")
    assert unsure.code == 130
    assert place.meshnet("node", "revoke", "gone", input="y\n").code == 0
    assert place.meshnet("node", "revoke", "nobody", "--yes").code == 3
    members = json.loads(place.meshnet("node", "list", "--json").out)
    assert [member["state"] for member in members if member["name"] == "gone"] == ["revoked"]


def test_status_is_one_page(place: Place) -> None:
    lines = place.meshnet("coordinator", "status").out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "Coordinator",
        "URLs",
        "TLS pin",
        "Root key",
        "Issuing key",
        "Store",
        "Nodes",
        "Networks",
    ]


def test_without_a_coordinator_here_the_administrator_is_told_where_to_go(tmp_path: Path) -> None:
    said = Place(tmp_path).meshnet("token", "create")
    assert (said.code, said.out) == (6, "")
    assert "hint: Run this on the coordinator's machine" in said.err
