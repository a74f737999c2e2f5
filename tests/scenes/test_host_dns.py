"""Shell. A host that asks for the mesh's names as for any other: by systemd-resolved, by a file."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab import Host, wait_until
from tests.lab.mesh import Mesh, Node
from tests.lab.resolved import Resolved, missing
from tests.scenes.mesh_scenes import attached, mesh_of

pytestmark = [pytest.mark.root, pytest.mark.slow]

UPSTREAM = "127.0.0.9"
"""Where a server of the host's own knows one name that is not of the mesh."""


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with mesh_of(2, "hosts that ask") as mesh:
        yield mesh


def with_upstream(host: Host) -> None:
    """Give a host a name server as it would have without us."""
    host.start(
        "upstream",
        *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"),
        *("--bind-interfaces", f"--listen-address={UPSTREAM}", "--port=53"),
        *("--host-record=up.example,192.0.2.7", "--pid-file=", "--user=root"),
    )
    wait_until(lambda: ask(host, "up.example", f"@{UPSTREAM}") == ["192.0.2.7"], 10, "an upstream")


def ask(host: Host, name: str, *options: str) -> list[str]:
    """Ask as any program on the host would, by its /etc/resolv.conf."""
    words = ("dig", "+short", "+tries=1", "+time=2", *options)
    answer = host.run(*words, name, check=False).stdout
    return sorted(line for line in answer.splitlines() if not line.startswith(";"))


def asks_by(node: Node) -> str:
    return str(json.loads(node.meshnet("dns", "host", "--json"))["host"])


@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
def test_a_host_with_systemd_resolved_asks_us_for_our_names_only(mesh: Mesh) -> None:
    node = mesh.nodes["n1"]
    with_upstream(node.host)
    resolved = Resolved(node.host, UPSTREAM)
    with attached(mesh.nodes["n2"], "c1", "--service", "web", "--port", "80/tcp") as web:
        node.meshnet("dns", "host", "auto")
        wait_until(lambda: ask(node.host, "web.mesh") == [web.address4], 10, "web.mesh")
        assert ask(node.host, web.address4, "-x") == ["c1.default.mesh."]
        assert ask(node.host, "up.example") == ["192.0.2.7"]
        assert asks_by(node) == "systemd-resolved"

        resolved.restart()
        assert ask(node.host, "web.mesh") == [web.address4]

        node.meshnet("down")
        node.start()
        wait_until(lambda: ask(node.host, "web.mesh") == [web.address4], 10, "a link made anew")

        node.meshnet("dns", "host", "off")
        assert ask(node.host, "web.mesh") == []
        assert asks_by(node) == ""


def test_a_host_without_it_asks_by_its_file_when_told_so(mesh: Mesh) -> None:
    node = mesh.nodes["n2"]
    with_upstream(node.host)
    node.host.resolver(UPSTREAM)
    before = node.host.output("cat", "/etc/resolv.conf")
    with attached(mesh.nodes["n1"], "c1", "--service", "shop", "--port", "80/tcp") as shop:
        assert asks_by(node) == ""
        assert "meshnet dns host file" in node.meshnet("dns", "host")

        node.meshnet("dns", "host", "file")
        assert asks_by(node) == "/etc/resolv.conf"
        assert ask(node.host, "shop.mesh") == [shop.address4]
        wait_until(lambda: ask(node.host, "up.example") == ["192.0.2.7"], 5, "names of others")

        node.kill()
        assert ask(node.host, "shop.mesh") == [shop.address4]
        node.start()
        assert asks_by(node) == "/etc/resolv.conf"

    node.meshnet("down")
    assert node.host.output("cat", "/etc/resolv.conf") == before
