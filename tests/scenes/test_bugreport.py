"""Shell. The bundle of a node's state: what is in it, and that no secret is."""

from __future__ import annotations

import base64
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshnet.agent.bugreport import secrets
from tests.lab.mesh import PROGRAM, Mesh, Node
from tests.scenes.mesh_scenes import attached, mesh_of

pytestmark = pytest.mark.root

FILES = {
    "versions.txt",
    "status.json",
    "peers.json",
    "plan.json",
    "facts.json",
    "doctor.txt",
    "host/links.json",
    "host/nft.json",
    "host/wireguard.txt",
    "network/default/fdb.json",
    "network/default/neighbours.json",
}


KEYS = "/var/lib/meshnet/keys.json"


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with mesh_of(2, "bundles") as mesh:
        yield mesh


def unpacked(node: Node, name: str) -> dict[str, bytes]:
    """Make a bundle on a node; return its files."""
    path = f"/run/{name}.tar.gz"
    node.meshnet("bugreport", "-o", path)
    assert node.host.file(path).stat().st_mode & 0o777 == 0o600
    with tarfile.open(node.host.file(path)) as bundle:
        files = {item.name: bundle.extractfile(item) for item in bundle.getmembers()}
        return {
            key.removeprefix("meshnet-bugreport/"): file.read()
            for key, file in files.items()
            if file
        }


def spellings(text: str) -> list[bytes]:
    """Return every usual spelling of a key that is stored as base64."""
    raw = base64.b64decode(text)
    written = [base64.b64encode(raw), base64.urlsafe_b64encode(raw), raw.hex().encode()]
    return [raw, raw.hex().upper().encode(), *written, *(one.rstrip(b"=") for one in written)]


def secrets_of(node: Node) -> list[bytes]:
    keys = json.loads(node.host.file(KEYS).read_text())
    assert set(keys) == {"identity", "wireguard", "next"}
    return [spelling for key in keys.values() if key for spelling in spellings(key)]


def test_a_bundle_tells_all_and_holds_no_key_and_no_token(mesh: Mesh) -> None:
    node, token = mesh.nodes["n1"], mesh.coordinator.token()
    keys = json.loads(node.host.file(KEYS).read_text())
    # What people write into metadata is published; a secret pasted there is cut out all the same.
    metadata = ("--metadata", f"token={token}", "--metadata", f"key={keys['wireguard']}")
    with attached(node, "c1", "--service", "web", *metadata):
        files = unpacked(node, "alive")
    assert files.keys() >= FILES
    everything = b"\n".join(files.values())
    for secret in secrets_of(node):
        assert secret not in everything
    assert token.encode() not in everything
    assert token.removeprefix("mnt1.").encode() not in everything
    assert b"mnt1.[removed]" in files["services.json"]
    assert node.status().public_key.encode() in files["host/wireguard.txt"]
    assert json.loads(files["peers.json"])[0]["name"] == "n2"
    assert json.loads(files["facts.json"])["kinds"]["membership"] == 2
    digests = {json.loads(files[name])["digest"] for name in ("facts.json", "status.json")}
    assert len(digests) == 1, "the facts on disk are those in memory"
    assert "handshake" in files["doctor.txt"].decode()


def test_without_an_agent_there_is_a_bundle_too(mesh: Mesh) -> None:
    node = mesh.nodes["n2"]
    node.kill()
    # It was killed while it changed its key.
    keys = json.loads(node.host.file(KEYS).read_text())
    following = base64.b64encode(os.urandom(32)).decode()
    node.host.file(KEYS).write_text(json.dumps({**keys, "next": following}))
    assert base64.b64decode(following) in secrets(node.host.file(KEYS).parent)
    files = unpacked(node, "dead")
    assert b"no agent listens" in files["status.error.txt"]
    assert "no agent answers" in files["doctor.txt"].decode()
    assert files.keys() >= {"host/links.json", "network/default/fdb.json", "versions.txt"}
    everything = b"\n".join(files.values())
    assert not [secret for secret in secrets_of(node) if secret in everything]


def test_a_file_that_is_there_is_not_overwritten(mesh: Mesh) -> None:
    host = mesh.nodes["n1"].host
    host.shell("echo mine >/run/kept")
    code, text = host.transcript(PROGRAM, "bugreport", "-o", "/run/kept")
    assert code == 4
    assert "/run/kept exists already" in text
    assert Path(host.file("/run/kept")).read_text() == "mine\n"
