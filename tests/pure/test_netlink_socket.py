"""The netlink socket's dialogue, against a kernel that says what a script has it say."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable

import pytest

from meshnet.errors import KernelRefused
from meshnet.linux import netlink
from meshnet.linux.netlink import NLMSG_DONE, NLMSG_ERROR, Netlink, message

Answer = Callable[[list[tuple[int, int]]], list[bytes]]
"""From (flags, sequence) of what was sent to the datagrams that come back."""


class Script:
    """Stands where the socket is; each send is answered by the next of `answers`."""

    def __init__(self, *answers: Answer | OSError) -> None:
        self.answers = list(answers)
        self.sent: list[list[tuple[int, int]]] = []
        self._waiting: list[bytes | OSError] = []

    def send(self, data: bytes) -> int:
        heads = [(flags, sequence) for _, flags, sequence, _ in netlink.split_messages(bytes(data))]
        self.sent.append(heads)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self._waiting += [answer] if isinstance(answer, OSError) else answer(heads)
        return len(data)

    def recvmsg_into(self, buffers: list[bytearray]) -> tuple[int, list[object], int, object]:
        if not self._waiting:
            raise TimeoutError
        datagram = self._waiting.pop(0)
        if isinstance(datagram, OSError):
            raise datagram
        fits = datagram[: len(buffers[0])]
        buffers[0][: len(fits)] = fits
        return len(fits), [], socket.MSG_TRUNC if fits != datagram else 0, None

    def close(self) -> None:
        pass


def scripted(*answers: Answer | OSError) -> tuple[Netlink, Script]:
    one = Netlink()
    one._socket.close()
    script = Script(*answers)
    one._socket = script  # type: ignore[assignment]
    return one, script


def said(kind: int, sequence: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def verdict(sequence: int, code: int, words: str = "") -> bytes:
    """Return an NLMSG_ERROR the way a kernel with capped, extended ACKs says it."""
    header = struct.pack("=IHHII", 20, 28, 0, sequence, 0)
    text = netlink.attribute(1, words.encode() + b"\0") if words else b""
    flags = 0x100 | (0x200 if words else 0)
    return said(NLMSG_ERROR, sequence, struct.pack("=i", -code) + header + text, flags)


def part(sequence: int, body: bytes, flags: int = 0) -> bytes:
    return said(28, sequence, body, netlink.NLM_F_MULTI | flags)


def done(sequence: int, code: int = 0) -> bytes:
    return said(NLMSG_DONE, sequence, struct.pack("=i", -code), netlink.NLM_F_MULTI)


QUERY = message(30, 0, bytes(12))


def test_only_the_last_message_of_a_batch_asks_for_an_ack() -> None:
    one, script = scripted(lambda heads: [verdict(heads[-1][1], 0)])

    one.request([QUERY] * 130, lambda i: f"entry {i}")

    assert [len(batch) for batch in script.sent] == [128, 2]
    asked = [[bool(flags & netlink.NLM_F_ACK) for flags, _ in batch] for batch in script.sent]
    assert asked == [[False] * 127 + [True], [False, True]]
    sequences = [sequence for batch in script.sent for _, sequence in batch]
    assert sequences == list(range(1, 131))


def test_a_refusal_names_its_entry_and_gives_the_kernels_words() -> None:
    def refuse_second(heads: list[tuple[int, int]]) -> list[bytes]:
        return [verdict(heads[1][1], errno.EEXIST, "it is there"), verdict(heads[-1][1], 0)]

    one, _ = scripted(refuse_second)

    with pytest.raises(KernelRefused) as refusal:
        one.request([QUERY] * 3, ["first", "second", "third"])

    assert refusal.value.errno == errno.EEXIST
    assert refusal.value.message == "second: File exists (EEXIST): it is there"


def test_several_refusals_name_the_first_and_count_the_rest() -> None:
    def refuse_all(heads: list[tuple[int, int]]) -> list[bytes]:
        return [b"".join(verdict(sequence, errno.ENOENT) for _, sequence in heads)]

    one, _ = scripted(refuse_all)

    with pytest.raises(KernelRefused, match=r"entry 0 \(and 199 more\): No such file"):
        one.request([QUERY] * 200, lambda i: f"entry {i}")
    one.request([QUERY] * 200, lambda i: f"entry {i}", ignore=(errno.ENOENT,))


def test_answers_to_earlier_questions_are_passed_over() -> None:
    one, _ = scripted(
        lambda heads: [verdict(heads[0][1] - 1, errno.EPERM), verdict(heads[0][1], 0)]
    )

    one.request([QUERY], ["the entry"])


def test_parts_of_a_dump_are_merged() -> None:
    one, _ = scripted(
        lambda heads: [
            part(heads[0][1], b"one.") + part(heads[0][1], b"two."),
            part(heads[0][1] + 7, b"not ours"),
            part(heads[0][1], b"last") + done(heads[0][1]),
        ]
    )

    assert one.dump(QUERY, "dump it") == [b"one.", b"two.", b"last"]


def test_a_dump_during_which_the_table_changed_is_made_again() -> None:
    changed, table = netlink.NLM_F_DUMP_INTR, b"good"
    one, script = scripted(
        lambda heads: [part(heads[0][1], b"bad.", changed), done(heads[0][1])],
        lambda heads: [part(heads[0][1], b"bad."), done(heads[0][1], errno.EINTR)],
        lambda heads: [part(heads[0][1], table), done(heads[0][1])],
    )

    assert one.dump(QUERY, "dump it") == [table]
    assert len(script.sent) == 3


def test_a_table_that_never_rests_ends_in_an_error() -> None:
    one, _ = scripted(
        lambda heads: [part(heads[0][1], b"bad.", netlink.NLM_F_DUMP_INTR), done(heads[0][1])]
    )

    with pytest.raises(KernelRefused, match="dump it: the table keeps changing") as refusal:
        one.dump(QUERY, "dump it")
    assert refusal.value.errno == errno.EINTR


@pytest.mark.parametrize("ending", [verdict, done], ids=["error", "done"])
def test_a_dump_that_is_refused_says_why(ending: Callable[[int, int], bytes]) -> None:
    one, _ = scripted(lambda heads: [ending(heads[0][1], errno.EPERM)])

    with pytest.raises(KernelRefused, match="dump it: Operation not permitted") as refusal:
        one.dump(QUERY, "dump it")
    assert refusal.value.hint == "Run as root."


def test_a_kernel_that_does_not_answer_or_cannot_is_our_error() -> None:
    silent, _ = scripted(lambda heads: [])
    full, _ = scripted(OSError(errno.ENOBUFS, "No buffer space available"))

    with pytest.raises(KernelRefused) as first:
        silent.request([QUERY], ["the entry"])
    with pytest.raises(KernelRefused) as second:
        full.dump(QUERY, "dump it")

    assert (first.value.errno, second.value.errno) == (errno.ETIMEDOUT, errno.ENOBUFS)


def test_a_question_is_answered_by_messages_up_to_the_ack() -> None:
    one, _ = scripted(
        lambda heads: [said(16, heads[0][1], b"answer.."), verdict(heads[0][1], 0)],
        lambda heads: [verdict(heads[0][1], errno.ENODEV)],
    )

    assert one.ask(QUERY, "look it up") == [b"answer.."]
    with pytest.raises(KernelRefused, match="look it up: No such device"):
        one.ask(QUERY, "look it up")


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.EPERM, "Run as root."),
        (errno.EMFILE, "Raise the limit of open files"),
        (errno.EOPNOTSUPP, "This kernel lacks it: load the module"),
        (errno.EEXIST, ""),
    ],
)
def test_what_the_machine_lacks_is_said_with_what_to_do(code: int, hint: str) -> None:
    assert netlink.hint_for(code).startswith(hint)
    assert bool(netlink.hint_for(code)) == bool(hint)
