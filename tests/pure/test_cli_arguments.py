"""Arguments: what is right becomes a value, what is wrong stops with two lines and exit code 2."""

from __future__ import annotations

import pytest

from meshnet.cli import types
from meshnet.cli.commands.dns import question
from meshnet.cli.main import COMMANDS, main
from meshnet.errors import BadInput
from meshnet.wire.local import PortSpec

WRONG = [
    "stats",
    "--nonsense",
    "--state-dir",
    "status extra",
    "status --jso",
    "nodes extra",
    "networks extra",
    "services extra",
    "peers extra",
    "attachments extra",
    "plan --apply=x",
    "docker setup --undo=x",
    "cni",
    "cni setup --undo=x",
    "podman",
    "podman setup --undo=x",
    "cni setup --network -x-",
    "join",
    "join mnt1.x --token-file /dev/null",
    "join --token-file /does/not/exist",
    "join mnt1.x --name UPPER_case",
    "join mnt1.x --name localhost",
    "join mnt1.x --listen-port 0",
    "join mnt1.x --listen-port 65536",
    "agent extra",
    "agent --log-level loud",
    "down extra",
    "attach",
    "attach --pid 1 --netns c1",
    "attach --pid 1 --host",
    "attach --pid 0",
    "attach --pid x",
    "attach --pid 1 --network -x-",
    "attach --pid 1 --name a.b",
    "attach --pid 1 --ip 10.0.0.256",
    "attach --pid 1 --ip 10.0.0.1/24",
    "attach --pid 1 --interface a-name-far-too-long",
    "attach --pid 1 --interface a/b",
    "attach --pid 1 --service _web --port 80",
    "attach --pid 1 --service web --port 0",
    "attach --pid 1 --service web --port 65536/tcp",
    "attach --pid 1 --service web --port 80/sctp",
    "attach --pid 1 --service web --port :80",
    "attach --pid 1 --service web --port 80 --weight 65536",
    "attach --pid 1 --service web --metadata version",
    "attach --pid 1 --service web --metadata =2",
    "attach --pid 1 --port 80",
    "attach --netns /proc/self/ns/net",
    "detach",
    "detach a_b",
    "detach c1 --network x.y",
    "service",
    "service add",
    "service add web --port http",
    "service add web --attachment -",
    "service rm",
    "service rm web --port 80",
    "service stop web",
    "key",
    "key rotate now",
    "network",
    "network create",
    "network create mesh",
    "network create appnet --prefix 10.20.0.1/16",
    "network create appnet --prefix fd00::/129",
    "network rm",
    "dns",
    "dns query",
    "dns query web WKS",
    "dns query web A extra",
    "dns set printer",
    "dns set printer A",
    "dns set printer PTR x",
    "dns unset",
    "doctor n1",
    "doctor n1 n2 n3",
    "bugreport extra",
    "coordinator",
    "coordinator init --nonsense",
    "coordinator start",
    "token",
    "token create --ttl soon",
    "token create --ttl 0",
    "token create --uses 0",
    "token create --uses many",
    "token revoke",
    "node",
    "node revoke",
    "completion",
    "completion tcsh",
]


@pytest.mark.parametrize("line", WRONG)
def test_wrong_arguments_are_two_lines_and_exit_code_2(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(line.split())
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert (code, out, len(lines)) == (2, "", 2), err
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")


def test_the_matrix_has_every_command() -> None:
    assert set(COMMANDS) - {line.split()[0] for line in WRONG} == set()


@pytest.mark.parametrize("line", ["", "--help", *(f"{name} --help" for name in COMMANDS)])
def test_every_command_teaches(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(line.split())
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert out.startswith("Usage: meshnet")
    assert "\n    meshnet " in out, "shows no example"


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("80", PortSpec(number=80, name="http")),
        ("80/tcp", PortSpec(number=80, name="http")),
        ("80/udp", PortSpec(number=80, protocol="udp")),
        ("53/udp", PortSpec(number=53, protocol="udp", name="domain")),
        ("grpc:9000", PortSpec(number=9000, name="grpc")),
        ("grpc:80/tcp", PortSpec(number=80, name="grpc")),
        ("65535/tcp", PortSpec(number=65535)),
    ],
)
def test_a_port_may_be_named_and_a_usual_one_has_its_usual_name(text: str, port: PortSpec) -> None:
    assert types.port(text) == port


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604800), ("2w", 1209600)],
)
def test_a_duration_has_a_unit(text: str, seconds: int) -> None:
    assert types.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "1y", "-1h", "1.5h", "0s", "1 h", "6000w", "٣h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        types.duration(text)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        (("web", None), ("web.mesh", "A")),
        (("web.appnet.mesh", "AAAA"), ("web.appnet.mesh", "AAAA")),
        (("example.org", None), ("example.org", "A")),
        (("10.214.0.5", None), ("5.0.214.10.in-addr.arpa", "PTR")),
        (("web.", None), ("web.", "A")),
    ],
)
def test_a_question_is_filled_in(asked: tuple[str, str | None], meant: tuple[str, str]) -> None:
    assert question(*asked) == meant
