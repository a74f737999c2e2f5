"""Pure. Our lines in a resolv.conf: first, marked, and gone again without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.errors import Conflict
from meshnet.linux.resolvconf import FIRST, LAST, nameservers, put, remove, with_ours, without_ours

LINES = st.sampled_from(
    (FIRST, LAST, "", "nameserver 192.0.2.53", "search example.org", "# meshnet", "nameserver x")
)
TEXTS = st.lists(LINES).map("\n".join) | st.text()


def test_our_server_comes_first_and_the_others_stay() -> None:
    text = "search example.org\nnameserver 192.0.2.53\n"

    assert with_ours(text, ["10.213.0.5"]) == (
        "# meshnet: kept by `meshnet dns host file`\n"
        "nameserver 10.213.0.5\n"
        "# meshnet: end\n"
        "search example.org\n"
        "nameserver 192.0.2.53\n"
    )


@given(TEXTS, st.lists(st.ip_addresses().map(str), max_size=3))
def test_what_is_put_in_goes_out_again_and_nothing_else(text: str, servers: list[str]) -> None:
    foreign = without_ours(text)
    ours = with_ours(text, servers)

    assert nameservers(ours)[: len(servers)] == servers
    assert without_ours(ours) == foreign
    assert with_ours(ours, servers) == ours
    assert without_ours(foreign) == foreign


def test_a_block_that_lost_its_end_takes_nothing_along() -> None:
    assert without_ours(f"{FIRST}\nnameserver 192.0.2.53\n") == "nameserver 192.0.2.53\n"


def test_a_file_is_changed_once_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(b"nameserver 192.0.2.53\n# caf\xe9\n")
    path.chmod(0o640)

    assert [put(["10.213.0.5"], path), put(["10.213.0.5"], path)] == [True, False]
    assert path.stat().st_mode & 0o777 == 0o640
    assert [remove(path), remove(path)] == [True, False]
    assert path.read_bytes() == b"nameserver 192.0.2.53\n# caf\xe9\n"
    assert [each.name for each in tmp_path.iterdir()] == ["resolv.conf"]


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "resolv.conf"
    target.write_text("")
    link.symlink_to(target)

    put(["10.213.0.5"], link)

    assert link.is_symlink()
    assert nameservers(target.read_text()) == ["10.213.0.5"]


def test_a_file_of_systemd_resolved_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 127.0.0.53\n")

    with pytest.raises(Conflict, match="belongs to systemd-resolved"):
        put(["10.213.0.5"], path)
    assert path.read_text() == "nameserver 127.0.0.53\n"
