"""Pure. What goes wrong between a node and coordinators, and what is done about it.

Any of several coordinators will do, so a line that is dead, or leads to a server with another key,
only means that the next one is asked. Every other error is an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshnet.errors import BadInput, MeshnetError, NotAuthentic, PinMismatch, Unavailable
from meshnet.wire import api, codec

RETRY_FIRST, RETRY_LAST = 0.2, 5.0


class StaleChallenge(NotAuthentic):
    """The coordinator has restarted, or took its time, since it said hello."""


def full_jitter(attempt: int, chance: float) -> float:
    """Return how long to wait before another attempt, in seconds; `chance` is in 0..1."""
    return chance * float(min(RETRY_LAST, RETRY_FIRST * 2 ** min(attempt, 16)))


def means_next(error: MeshnetError) -> bool:
    """Say whether another coordinator may be asked: this one said nothing to be believed."""
    return type(error) in (Unavailable, PinMismatch)


def worst(faults: Sequence[MeshnetError]) -> MeshnetError:
    """Return the one to tell: a wrong key is news that a dead line must not hide."""
    wrong = [fault for fault in faults if isinstance(fault, PinMismatch)]
    return (wrong or faults)[0]


def wrong_key(url: str) -> PinMismatch:
    """Return the error for a server whose TLS key has none of the pins."""
    return PinMismatch(
        f"coordinator {url} holds another key than the one this node was told to trust",
        "Nothing was sent to it. Check the URL and the token; someone may be in between.",
    )


def unreachable(url: str, error: Exception) -> Unavailable:
    """Return the error for whatever keeps a request from being answered."""
    hint = "Is it up, and do TCP packets get from here to its port?"
    if isinstance(error, TimeoutError):
        return Unavailable(f"coordinator {url} did not answer in time", hint)
    cause = getattr(error, "os_error", error)
    reason = getattr(cause, "strerror", None) or cause
    return Unavailable(f"coordinator {url} cannot be reached: {reason}", hint)


def read_problem(url: str, text: bytes, status: int) -> api.Problem:
    """Read the body of a refusal, whoever wrote it."""
    try:
        return codec.decode(text, api.Problem, "error")
    except BadInput:
        return api.Problem("", f"coordinator {url} answered with HTTP status {status}")


def refusal(problem: api.Problem, status: int) -> MeshnetError:
    """Return the error that a coordinator answered with."""
    if problem.code == api.CHALLENGE:
        return StaleChallenge(problem.message, problem.hint)
    return api.error_from(problem, status)
