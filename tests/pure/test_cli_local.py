"""The way to the agent: what the socket or a broken agent does to us becomes an error of ours."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshnet import errors
from meshnet.cli.main import main
from meshnet.errors import BadInput, MeshnetError, Unavailable
from meshnet.local.agent import Agent
from meshnet.local.settings import Settings
from meshnet.wire import local
from meshnet.wire.local import Done, ErrorReply

Script = Callable[[socket.socket], None]


@contextmanager
def speaking(run_dir: Path, script: Script) -> Iterator[Settings]:
    """Listen where an agent would, and do as `script` says with the one who comes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(run_dir / local.SOCKET))
    listener.listen()
    listener.settimeout(10)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            script(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Settings(run_dir=run_dir)
    finally:
        thread.join(10)
        listener.close()


def saying(answer: bytes) -> Script:
    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    return script


def http(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def ask(run_dir: Path, script: Script) -> Done:
    with speaking(run_dir, script) as settings:
        return Agent(settings).get("/v1/status", Done)


def test_an_answer_is_read(tmp_path: Path) -> None:
    assert ask(tmp_path, saying(http(200, b'{"message":"so"}'))) == Done(message="so")


def test_a_newer_agents_unknown_fields_are_ignored(tmp_path: Path) -> None:
    assert ask(tmp_path, saying(http(200, b'{"message":"so","new":[1]}'))).message == "so"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", Unavailable),
        (b"SSH-2.0-other\r\n", Unavailable),
        (b"HTTP/1.1 200 Said\r\nContent-Length: 100\r\n\r\n{", Unavailable),
        (http(200, b"[]"), BadInput),
        (http(200, b"\xff\xfe"), BadInput),
        (http(200, b"[" * 100_000), BadInput),
        (http(500, b"500 Internal Server Error"), Unavailable),
    ],
)
def test_a_broken_agent_is_explained(answer: bytes, kind: type, tmp_path: Path) -> None:
    with pytest.raises(MeshnetError) as caught:
        ask(tmp_path, saying(answer))
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "kind",
    [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, MeshnetError)],
)
def test_every_error_comes_back_as_itself(kind: type[MeshnetError], tmp_path: Path) -> None:
    if kind is errors.KernelRefused:
        error: MeshnetError = errors.KernelRefused("what", 17, "do this")
    else:
        error = kind("what", "do this")
    body = local.encode(local.error_reply(error))
    with pytest.raises(MeshnetError) as caught:
        ask(tmp_path, saying(http(local.http_status(error), body)))
    again = caught.value
    assert type(again) is kind
    assert (again.message, again.hint, again.exit_code) == ("what", "do this", kind.exit_code)
    assert getattr(again, "errno", 17) == 17


def test_an_error_of_a_newer_agent_keeps_its_exit_code(tmp_path: Path) -> None:
    reply = ErrorReply(error="Surprise", message="what", hint="do this", exit_code=42)
    with pytest.raises(MeshnetError) as caught:
        ask(tmp_path, saying(http(418, local.encode(reply))))
    assert (type(caught.value), caught.value.exit_code) == (MeshnetError, 42)


def test_the_name_of_no_error_class_makes_none(tmp_path: Path) -> None:
    reply = ErrorReply(error="annotations", message="what")
    with pytest.raises(MeshnetError) as caught:
        ask(tmp_path, saying(http(400, local.encode(reply))))
    assert type(caught.value) is MeshnetError


def test_no_agent_is_two_lines_and_exit_code_6(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--run-dir", str(tmp_path), "status"]) == 6
    assert capsys.readouterr().err == (
        f"error: no agent listens on {tmp_path}/agent.sock\n"
        "hint: Join a mesh with `meshnet join`, or start it: `systemctl start meshnet-agent`.\n"
    )


def test_a_file_where_the_socket_should_be_is_no_agent(tmp_path: Path) -> None:
    (tmp_path / local.SOCKET).write_text("")
    with pytest.raises(Unavailable, match="no agent listens"):
        Agent(Settings(run_dir=tmp_path)).get("/v1/status", Done)
    assert Agent(Settings(run_dir=tmp_path)).process() is None


def test_a_path_too_long_for_a_socket_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be used"):
        Agent(Settings(run_dir=tmp_path / ("x" * 100))).get("/v1/status", Done)


def test_a_bug_is_one_line_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Agent, "get", lambda *arguments: 1 / 0)
    monkeypatch.delenv("MESHNET_DEBUG", raising=False)
    assert main(["status"]) == 70
    assert capsys.readouterr().err == (
        "error: a bug of meshnet, ZeroDivisionError: division by zero"
        " (MESHNET_DEBUG=1 shows where)\n"
    )
