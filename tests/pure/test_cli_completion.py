"""Shell completion: the scripts are for a shell to read, and what they ask is answered."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from meshnet.cli.main import COMMANDS, main

RUN = [sys.executable, "-c", "from meshnet.cli.main import run; run()"]


def complete(line: str) -> list[str]:
    """Return what the completion of `line` offers, as bash would ask for it."""
    words = line.split(" ")
    asked = {
        "_MESHNET_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    result = subprocess.run(
        RUN, env=os.environ | asked, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stderr == ""
    return [line.partition(",")[2] for line in result.stdout.splitlines() if line]


def test_commands_are_completed() -> None:
    assert complete("meshnet ") == list(COMMANDS)
    assert complete("meshnet at") == ["attachments", "attach"]
    assert complete("meshnet token ") == ["create", "list", "revoke"]


def test_options_and_choices_are_completed() -> None:
    assert complete("meshnet join --n") == ["--name", "--no-host", "--no-start"]
    assert complete("meshnet dns query web A") == ["A", "AAAA", "ANY"]
    assert complete("meshnet completion ") == ["bash", "zsh", "fish"]


def test_names_are_completed_by_asking_the_agent(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "agent.sock"))
    listener.listen()
    listener.settimeout(20)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            body = b'[{"name":"default"},{"name":"appnet"},{"name":"db"}]'
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert complete(f"meshnet --run-dir {tmp_path} network rm d") == ["db", "default"]
    finally:
        thread.join(20)
        listener.close()


def test_without_an_agent_no_name_is_offered_and_nothing_is_said(tmp_path: Path) -> None:
    assert complete(f"meshnet --run-dir {tmp_path} network rm ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_read_its_script(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert "_MESHNET_COMPLETE" in script.read_text()
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(script)], timeout=60, check=True)
