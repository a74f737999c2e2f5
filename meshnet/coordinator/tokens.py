"""Shell. Join tokens: made, listed, revoked. The secret is shown once and kept as a hash."""

from __future__ import annotations

import logging
import os
import time

from meshnet.coordinator import rules
from meshnet.coordinator.admin_api import TokenInfo, TokenMade, TokenRequest
from meshnet.coordinator.committer import Batch
from meshnet.coordinator.config import Config
from meshnet.coordinator.core import Core
from meshnet.coordinator.rules import TokenState
from meshnet.errors import BadInput, NotFound, TokenExpired, TokenRevoked, TokenUsedUp
from meshnet.model.names import is_label
from meshnet.wire.token import SECRET_BYTES, Token, write_token

log = logging.getLogger(__name__)

TTL_LIMIT = 366 * 86_400
USES_LIMIT = 100_000
TAGS_LIMIT = 32


class Tokens:
    """The tokens of a mesh."""

    def __init__(self, core: Core, config: Config) -> None:
        self._core = core
        self._config = config

    async def create(self, request: TokenRequest) -> TokenMade:
        """Make a token; the answer alone has its text."""
        _check(request)
        secret = os.urandom(SECRET_BYTES)
        now = int(time.time())
        state = TokenState(
            rules.token_id(secret),
            rules.token_hash(secret),
            now,
            now + request.ttl,
            request.uses,
            tags=request.tags,
        )
        await self._core.committer.do(lambda batch: batch.tx.add_token(state))
        log.info("token %s made: %d uses in %d s", state.id, request.uses, request.ttl)
        token = Token(self._config.urls, (self._core.pin,), self._core.world.root, secret)
        return TokenMade(state.id, write_token(token), state.expires)

    async def list(self) -> list[TokenInfo]:
        now = int(time.time())
        tokens = await self._core.committer.do(lambda batch: batch.tx.tokens())
        return [_info(token, now) for token in tokens]

    async def revoke(self, token_id: str) -> None:
        """Make a token useless; nodes that joined with it stay."""

        async def work(batch: Batch) -> None:
            if not await batch.tx.revoke_token(token_id):
                raise NotFound(f"there is no token {token_id[:80]!r}", "See `meshnet token list`.")

        await self._core.committer.do(work)
        log.info("token %s revoked", token_id)


def _check(request: TokenRequest) -> None:
    if not 0 < request.ttl <= TTL_LIMIT:
        raise BadInput(f"a token's time to live is 1 s to {TTL_LIMIT // 86_400} days")
    if not 0 < request.uses <= USES_LIMIT:
        raise BadInput(f"a token has 1 to {USES_LIMIT} uses")
    for tag in request.tags:
        if not is_label(tag):
            raise BadInput(f"tag {tag[:80]!r} is not a label of a-z, 0-9 and '-'")
    if len(request.tags) > TAGS_LIMIT:
        raise BadInput(f"a token has at most {TAGS_LIMIT} tags")


def _info(token: TokenState, now: int) -> TokenInfo:
    fault = rules.token_fault(token, now)
    words = {
        TokenRevoked: "revoked",
        TokenExpired: "expired",
        TokenUsedUp: "used up",
    }
    state = "valid" if fault is None else words[type(fault)]
    return TokenInfo(
        token.id, state, token.created, token.expires, token.uses, token.used, token.tags
    )
