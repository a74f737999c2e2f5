"""Shell. Starting a service without the certificate authorities of the machine.

aiohttp reads them all when it is imported, into the context of clients that bring none of their
own: forty milliseconds and two megabytes. Ours bring one that asks no authority, since a
connection is held to the pin of a token (see `agent.client`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

FILE = "SSL_CERT_FILE"
"""Where OpenSSL looks for authorities, before it looks where the distribution has them."""


@contextmanager
def no_authorities() -> Iterator[None]:
    """Let imports find no authorities; what is started later finds its environment as it was."""
    before = os.environ.get(FILE)
    os.environ[FILE] = os.devnull
    try:
        yield
    finally:
        if before is None:
            del os.environ[FILE]
        else:
            os.environ[FILE] = before
