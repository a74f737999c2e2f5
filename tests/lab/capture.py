"""Shell. Listening on an interface with tcpdump, and reading what it wrote.

    with link.capture() as wire:
        client.run("curl", …)
    assert wire.kinds() == {"wireguard": 14}
    assert not wire.contains(b"secret")

Packets are read from the capture file, so a search sees whole frames as they were on the wire. A
capture that lost packets proves nothing, so that is an error.
"""

from __future__ import annotations

import re
import signal
import struct
from collections import Counter
from types import TracebackType

from tests.lab.place import Place
from tests.lab.waiting import wait_until

ETHERNET = 14
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
LEAST_MTU = 1280
UDP, TCP, ICMP, ICMP6 = 17, 6, 1, 58
WIREGUARD_SIZES = {1: 148, 2: 92, 3: 64}
"""Message types of fixed size: handshake initiation, response, cookie reply."""

COUNTS = re.compile(r"(\d+) packets? captured,?\s+(\d+) packets? received by filter")


class Capture:
    """tcpdump on one interface of a place, from `with` to its end."""

    made = 0

    def __init__(self, place: Place, interface: str, *expression: str) -> None:
        Capture.made += 1
        self._place = place
        self._path = f"/run/capture-{Capture.made}.pcap"
        self._command = (
            *("tcpdump", "-i", interface, "-U", "-n", "-s", "0", "-B", "16384", "-Z", "root"),
            *("--immediate-mode", "-w", self._path, *expression),
        )

    def __enter__(self) -> Capture:
        self._tcpdump = self._place.start(f"tcpdump-{Capture.made}", *self._command)
        wait_until(lambda: "listening on" in self._tcpdump.text(), 10, lambda: self._tcpdump.text())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        wait_until(self._has_all, 10, lambda: self._tcpdump.tail(4))
        self._tcpdump.stop(number=signal.SIGINT)
        lost = re.search(r"(\d+) packets? dropped by kernel", self._tcpdump.text())
        if error is None and (lost is None or int(lost[1])):
            raise AssertionError(f"the capture is not whole: {self._tcpdump.tail(4)}")

    def _has_all(self) -> bool:
        """Say whether tcpdump has written all that the kernel has given it so far."""
        told = len(COUNTS.findall(self._tcpdump.text()))
        self._tcpdump.send(signal.SIGUSR1)
        wait_until(lambda: len(COUNTS.findall(self._tcpdump.text())) > told, 5, "tcpdump counts")
        captured, received = COUNTS.findall(self._tcpdump.text())[-1]
        return bool(captured == received)

    def frames(self) -> list[bytes]:
        """Return the Ethernet frames caught so far."""
        return _read_pcap(self._place.file(self._path).read_bytes())

    def contains(self, text: bytes) -> bool:
        """Say whether any frame has `text` in it."""
        return any(text in frame for frame in self.frames())

    def kinds(self) -> Counter[str]:
        """Count the frames by kind, see `kind_of`."""
        return Counter(kind_of(frame) for frame in self.frames())


def kind_of(frame: bytes) -> str:
    """Return wireguard, arp, nd, icmp, tcp, udp or other; nd is all of ICMPv6 that links need."""
    ethertype = int.from_bytes(frame[12:14], "big")
    packet = frame[ETHERNET:]
    if ethertype == ARP:
        return "arp"
    if ethertype == IPV4:
        return _transport(packet[9], packet[(packet[0] & 15) * 4 :])
    if ethertype == IPV6:
        hop_by_hop = packet[6] == 0
        protocol = packet[40] if hop_by_hop else packet[6]
        return _transport(protocol, packet[48:] if hop_by_hop else packet[40:])
    return "other"


def _transport(protocol: int, segment: bytes) -> str:
    if protocol == UDP:
        return "wireguard" if _is_wireguard(segment[8:]) else "udp"
    if protocol == ICMP6:
        return "nd" if segment[0] >= 130 else "icmp"
    return {TCP: "tcp", ICMP: "icmp"}.get(protocol, "other")


def _is_wireguard(payload: bytes) -> bool:
    """Type, three zero bytes, and the size that belongs to it.

    Data has 32 bytes and more, by sixteens; what fills the device is not padded.
    """
    if len(payload) < 32 or payload[1:4] != b"\0\0\0":
        return False
    if payload[0] == 4:
        return len(payload) % 16 == 0 or len(payload) > LEAST_MTU
    return WIREGUARD_SIZES.get(payload[0]) == len(payload)


def _read_pcap(data: bytes) -> list[bytes]:
    frames, offset = [], 24
    while offset + 16 <= len(data):
        size = struct.unpack_from("<8xI", data, offset)[0]
        if offset + 16 + size > len(data):
            break
        frames.append(data[offset + 16 : offset + 16 + size])
        offset += 16 + size
    return frames
