"""Shell. Members: join, renew, leave, revoke.

A join is decided in this order, so that what fails early costs nothing: the source has guesses
left; the challenge is ours and fresh; both proofs hold; then, in the transaction, the secret is
known, the name is free, a use of the token is taken. A node that asks again with the same token,
because the answer was lost, is answered again and takes no second use.

A node that leaves for good has its membership and leases taken back by its own word, and all it
said is forgotten. Its name is free at once. Its addresses are given to nobody before the grace of
leases is over: somebody may not have heard of it yet, or hold an answer of the DNS.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from ipaddress import IPv4Address

from prometheus_client import Counter

from meshnet.coordinator import rules
from meshnet.coordinator.challenge import StaleChallenge, check_challenge, ephemeral
from meshnet.coordinator.committer import Batch
from meshnet.coordinator.core import Core, claim_name, granted
from meshnet.coordinator.limits import Guesses, Once
from meshnet.coordinator.networks import Networks
from meshnet.coordinator.store import NodeRow
from meshnet.errors import Conflict, MeshnetError, NotAuthentic, NotFound, Refused, TokenUnknown
from meshnet.model.addresses import node_address6
from meshnet.model.facts import Fact
from meshnet.model.keys import IdentityKey, PublicKey
from meshnet.model.names import check_name
from meshnet.model.statements import Lease, Membership, Revocation
from meshnet.wire import auth
from meshnet.wire.api import Granted, Joined, JoinRequest, RenewRequest
from meshnet.wire.fact import seal

log = logging.getLogger(__name__)

JOINS = Counter("meshnet_joins", "Joins by outcome", ["outcome"])
MAX_KEYS = 4
NO_KEY = "Make new keys: `meshnet down --purge`, then join again."


class Members:
    """Who belongs to the mesh."""

    def __init__(self, core: Core, networks: Networks) -> None:
        self._core = core
        self._networks = networks
        self._guesses = Guesses()
        self._challenges = Once()

    # Join

    async def join(self, request: JoinRequest, source: str) -> Joined:
        """Let a node in; raise the TokenError that applies, RateLimited, NotAuthentic, Conflict."""
        try:
            joined = await self._join(request, source)
        except MeshnetError as error:
            JOINS.labels(type(error).__name__).inc()
            log.warning("join of %r from %s refused: %s", request.name[:63], source, error.message)
            guessed = isinstance(error, TokenUnknown | NotAuthentic)
            if guessed and not isinstance(error, StaleChallenge):
                self._guesses.failed(source, time.monotonic())
            raise
        JOINS.labels("joined").inc()
        log.info("node %s (%s) joined from %s", request.name, request.identity.node_id, source)
        return joined

    async def _join(self, request: JoinRequest, source: str) -> Joined:
        self._guesses.check(source, time.monotonic())
        check_name(request.name, "node")
        self._check_proofs(request)
        return await self._core.committer.do(lambda batch: self._admit(batch, request))

    def _check_proofs(self, request: JoinRequest) -> None:
        claim = auth.JoinClaim(
            request.name,
            request.identity,
            request.wireguard,
            request.secret,
            request.challenge,
            self._core.pin,
        )
        transcript, now = claim.transcript(), int(time.time())
        ends = check_challenge(self._core.secret, request.challenge, now)
        request.identity.verify(transcript, request.signature)
        key = ephemeral(self._core.secret, request.challenge)
        auth.check_proof(key, request.wireguard, transcript, request.mac)
        self._spend(request.challenge, ends, now)

    def _spend(self, challenge: bytes, ends: int, now: int) -> None:
        if not self._challenges.take(challenge, ends, now):
            raise NotAuthentic("the challenge was answered before", "Say hello again.")

    async def _admit(self, batch: Batch, request: JoinRequest) -> Joined:
        token_id = rules.token_id(request.secret)
        token = rules.check_secret(await batch.tx.token(token_id), request.secret)
        row = await batch.tx.node(request.identity.node_id)
        if (row and row.revoked) or self._is_revoked(request.identity, batch.now):
            raise Refused("this identity was revoked or has left the mesh", NO_KEY)
        self._check_key(request.wireguard, request.identity, batch.now)
        if row is not None and row.name != request.name:
            raise Conflict(f"this identity is node {row.name} already", "Join by that name.")
        async with batch.tx.savepoint():
            if row is None or row.token != token_id or row.not_after <= batch.now:
                row = await self._redeem(batch, request, token, row)
            membership = self._certify(batch, row, (request.wireguard,), token.tags)
        return self._welcome(batch, [membership])

    async def _redeem(
        self, batch: Batch, request: JoinRequest, token: rules.TokenState, row: NodeRow | None
    ) -> NodeRow:
        node_id, now = request.identity.node_id, batch.now
        if row is None:
            await claim_name(batch, request.name, "node", node_id)
        if not await batch.tx.redeem(token.id, now):
            current = await batch.tx.token(token.id) or token
            raise rules.token_fault(current, now) or TokenUnknown("the token is gone")
        row = NodeRow(
            node_id,
            request.name,
            request.identity,
            row.address4 if row else await self._free_address(batch),
            token.id,
            row.joined if row else now,
            now + self._core.terms.membership,
        )
        await batch.tx.put_node(row)
        return row

    async def _free_address(self, batch: Batch) -> IPv4Address:
        prefix = self._core.mesh(batch.now).prefix4
        return rules.lowest_free(prefix, await batch.tx.taken_addresses())

    def _is_revoked(self, identity: IdentityKey, now: int) -> bool:
        return identity in self._core.world.statements(now).revoked

    def _check_key(self, key: PublicKey, identity: IdentityKey, now: int) -> None:
        holder = self._core.world.key_holder(key, now)
        if holder and holder != identity.node_id:
            raise Conflict("that WireGuard key is certified for another node", NO_KEY)

    def _certify(
        self, batch: Batch, row: NodeRow, keys: tuple[PublicKey, ...], tags: tuple[str, ...]
    ) -> Fact:
        """Return the node's certificate: the one there is, or a new one when that says less."""
        known = batch.statement(Membership.KIND, row.id)
        if known and _says(known, row.not_after, keys):
            return known
        prefix6 = self._core.mesh(batch.now).prefix6
        return batch.state(
            Membership(
                node=row.id,
                name=row.name,
                identity=row.identity,
                address4=row.address4,
                address6=node_address6(prefix6, row.id),
                not_after=row.not_after,
                issued=batch.now,
                wireguard=keys,
                tags=tags,
            )
        )

    def _welcome(self, batch: Batch, facts: list[Fact]) -> Joined:
        """Return what a node needs to work until its first watch."""
        signed = tuple(seal(fact) for fact in [*self._core.world.common(batch.now), *facts])
        return Joined(self._core.world.store, batch.revision, signed)

    # Renew

    async def renew(self, member: Membership, request: RenewRequest) -> Granted:
        """Certify a member anew, with new WireGuard keys if it proves some; keep its leases."""
        keys = self._proven(member.identity, request) or member.wireguard
        return await self._core.committer.do(lambda b: self._renew(b, member, request, keys))

    def _proven(self, identity: IdentityKey, request: RenewRequest) -> tuple[PublicKey, ...]:
        if not request.keys:
            return ()
        now = int(time.time())
        ends = check_challenge(self._core.secret, request.challenge, now)
        key = ephemeral(self._core.secret, request.challenge)
        for proof in request.keys[:MAX_KEYS]:
            transcript = auth.key_transcript(request.challenge, self._core.pin, identity, proof.key)
            auth.check_proof(key, proof.key, transcript, proof.mac)
            self._check_key(proof.key, identity, now)
        self._spend(request.challenge, ends, now)
        return tuple(proof.key for proof in request.keys[:MAX_KEYS])

    async def _renew(
        self,
        batch: Batch,
        member: Membership,
        request: RenewRequest,
        keys: tuple[PublicKey, ...],
    ) -> Granted:
        row = await batch.tx.node(member.node)
        if row is None or row.revoked:
            raise Refused(f"node {member.name} is no member any more", NO_KEY)
        row = replace(row, not_after=batch.now + self._core.terms.membership)
        async with batch.tx.savepoint():
            await batch.tx.put_node(row)
            leases = await self._networks.keep_leases(batch, member.node, request.leases)
        return granted(batch, [self._certify(batch, row, keys, member.tags), *leases])

    # Leave, revoke, and those who are gone

    async def leave(self, member: Membership) -> Granted:
        """Let a node go, at its own wish."""
        granted = await self._core.committer.do(lambda batch: self._leave(batch, member))
        log.info("node %s (%s) has left", member.name, member.node)
        return granted

    async def _leave(self, batch: Batch, member: Membership) -> Granted:
        row = await batch.tx.node(member.node)
        if row is None or row.revoked:
            raise Refused(f"node {member.name} is no member any more")
        leases = [replace(x, not_after=batch.now) for x in await batch.tx.leases_of(row.id)]
        async with batch.tx.savepoint():
            await batch.tx.put_node(replace(row, revoked=True, not_after=batch.now))
            await batch.tx.release_name(row.name, "node")
            await batch.tx.put_leases(leases)
        facts = [batch.unstate(Membership.KIND, row.id)]
        facts += [batch.unstate(Lease.KIND, f"{x.network} {x.prefix}") for x in leases]
        batch.forgotten.append(row.identity)
        return granted(batch, facts)

    async def revoke(self, name: str) -> Granted:
        """Take a node's membership away for good. Its name is free at once."""
        return await self._core.committer.do(lambda batch: self._revoke(batch, name))

    async def _revoke(self, batch: Batch, name: str) -> Granted:
        rows = [row for row in await batch.tx.nodes() if name in (row.name, row.id)]
        row = next((row for row in rows if not row.revoked), None)
        if row is None:
            raise NotFound(f"there is no node {name}", "See `meshnet nodes`.")
        async with batch.tx.savepoint():
            await batch.tx.put_node(replace(row, revoked=True))
            await batch.tx.release_name(row.name, "node")
        return granted(batch, [batch.state(Revocation(row.identity))])

    async def forget_gone(self) -> int:
        """Forget nodes whose membership ended long ago, and return how many."""
        return await self._core.committer.do(self._forget_gone)

    async def _forget_gone(self, batch: Batch) -> int:
        gone = [row for row in await batch.tx.nodes() if self._is_gone(row, batch.now)]
        async with batch.tx.savepoint():
            for row in gone:
                if not row.revoked:
                    await batch.tx.release_name(row.name, "node")
                await batch.tx.drop_node(row.id)
                await batch.tx.drop_leases(await batch.tx.leases_of(row.id))
        for row in gone:
            _unstate(batch, Membership.KIND, row.id)
            _unstate(batch, Revocation.KIND, str(row.identity))
            batch.forgotten.append(row.identity)
            log.info("node %s (%s) is gone for long and forgotten", row.name, row.id)
        return len(gone)

    def _is_gone(self, row: NodeRow, now: int) -> bool:
        """One that cannot come back is kept for as long as its certificate could be shown."""
        terms = self._core.terms
        return row.not_after + (terms.lease_grace if row.revoked else terms.gone_grace) < now


def _unstate(batch: Batch, kind: str, key: str) -> None:
    """Take a statement back, unless that was done already."""
    known = batch.statement(kind, key)
    if known is not None and not known.deleted:
        batch.unstate(kind, key)


def _says(fact: Fact, not_after: int, keys: tuple[PublicKey, ...]) -> bool:
    body = fact.body
    return isinstance(body, Membership) and (body.not_after, body.wireguard) == (not_after, keys)
