"""Pure. A table as the DNS process holds it: names, what lies between them, and answers made ready.

Two look-ups come before any thinking. `packets` knows whole queries without their ID and gives
whole answers without theirs; `questions` knows questions in lower case and gives compiled answers.
Both are filled as queries come. A change of names drops all packets, the compiled answers that used
one of the names, and those that said that something is not there.
"""

from __future__ import annotations

from meshnet.dns.records import ARPA, IN_ADDR, ROOT, SOA, labels, suffixes, tails, with_serial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meshnet.dns.compiled import Compiled

PACKETS_MAX = 4096
VOLATILE_MAX = 4096


class Names:
    """One layer: records by owner, and how many owners lie below each name of the zone.

    Below a reverse zone nothing is counted (see `Lookup.exists`): the nibbles of every IPv6 address
    would cost more than all the rest.
    """

    __slots__ = ("inner", "records")

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.inner: dict[bytes, int] = {}

    def put(self, owner: bytes, records: bytes | None) -> None:
        """Set the records of an owner; None takes it away."""
        known = owner in self.records
        if records is None:
            self.records.pop(owner, None)
        else:
            self.records[owner] = records
        if known != (records is not None) and not owner.endswith(ARPA):
            self._count(owner, -1 if known else 1)

    def _count(self, owner: bytes, step: int) -> None:
        for above in list(suffixes(owner))[1:-1]:
            count = self.inner.get(above, 0) + step
            if count:
                self.inner[above] = count
            else:
                del self.inner[above]


class Lookup:
    """What one context answers. Without `origins` there is no zone yet, and nothing is answered."""

    __slots__ = (
        "_heads",
        "_kinds",
        "_users",
        "_volatile",
        "layers",
        "origins",
        "packets",
        "questions",
        "recursion",
        "serial",
    )

    def __init__(
        self, layers: Iterable[Names] = (), origins: Iterable[bytes] = (), recursion: bool = False
    ) -> None:
        self.layers = tuple(layers)
        self.origins = frozenset(origins)
        self.recursion = recursion
        self.serial = 1
        self.packets: dict[bytes, Iterator[bytes]] = {}
        self.questions: dict[bytes, Compiled] = {}
        self._kinds: set[bytes] = set()
        self._users: dict[bytes, list[bytes]] = {}
        self._volatile: list[bytes] = []
        self._heads: dict[tuple[int, ...], dict[bytes, bytes]] = {}

    def find(self, owner: bytes) -> bytes | None:
        """Return the records of an owner, or None."""
        for layer in self.layers:
            records = layer.records.get(owner)
            if records is not None:
                return records
        return None

    def origin(self, owner: bytes) -> bytes | None:
        """Return the nearest of our zones that the name lies in, or None."""
        return next((above for above in suffixes(owner) if above in self.origins), None)

    def exists(self, owner: bytes) -> bool:
        """Say whether the name exists: it has records, or names below it (RFC 8020).

        A reverse name shorter than an address is taken to exist. At worst NODATA is said where
        NXDOMAIN was due.
        """
        if self.find(owner) is not None or owner in self.origins:
            return True
        if owner.endswith(ARPA):
            return len(labels(owner)) < (6 if owner.endswith(IN_ADDR) else 34)
        return any(owner in layer.inner for layer in self.layers)

    def synthesize(self, owner: bytes) -> bytes | None:
        """Return the records of the wildcard that covers a name which does not exist, or None.

        It is `*` below the closest encloser, and no other (RFC 4592, section 3.3.1).
        """
        if self.exists(owner):
            return None
        encloser = next((above for above in suffixes(owner) if self.exists(above)), ROOT)
        return self.find(b"\x01*" + encloser)

    def soa(self, origin: bytes) -> bytes | None:
        """Return the SOA record of one of our zones with the serial of now."""
        for kind, tail in tails(self.find(origin) or b""):
            if kind == SOA:
                return with_serial(tail, self.serial)
        return None

    def remember(self, question: bytes, compiled: Compiled, used: Iterable[bytes]) -> None:
        """Keep an answer until one of the names it used changes; without names, until any does.

        One that used only the name in the question is found again by it, and by its type.
        """
        used = list(used)
        if not used:
            if len(self._volatile) >= VOLATILE_MAX:
                self._forget_volatile()
            self._volatile.append(question)
        elif used == [question[:-4]]:
            self._kinds.add(question[-4:])
        else:
            for owner in used:
                self._users.setdefault(owner, []).append(question)
        compiled.heads = self._heads.setdefault((compiled.rcode, *compiled.counts), {})
        self.questions[question] = compiled

    def changed(self, owners: Iterable[bytes]) -> None:
        """Drop the answers that may be different now."""
        self.packets.clear()
        self._forget_volatile()
        for owner in owners:
            for kind in self._kinds:
                self.questions.pop(owner + kind, None)
            for question in self._users.pop(owner, ()):
                self.questions.pop(question, None)

    def allow_recursion(self, recursion: bool) -> None:
        """Set whether other names are forwarded, which every answer says (RA)."""
        if self.recursion != recursion:
            self.recursion = recursion
            self.packets.clear()
            for heads in self._heads.values():
                heads.clear()

    def _forget_volatile(self) -> None:
        for question in self._volatile:
            self.questions.pop(question, None)
        self._volatile.clear()
        # Whole packets are made from these too.
        self.packets.clear()
