"""Shell. Waiting for a state, with a limit: the lab's only way to let time pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NotInTime(AssertionError):
    """A state that did not come within its limit."""


def wait_until(
    predicate: Callable[[], T], limit: float, what: str | Callable[[], str], pause: float = 0.05
) -> T:
    """Return the first true value of `predicate`; raise NotInTime after `limit` seconds.

    `what` completes the sentence "not within 5 s: …"; as a function it is called for the message.
    """
    deadline = time.monotonic() + limit
    while not (value := predicate()):
        if time.monotonic() > deadline:
            text = what if isinstance(what, str) else what()
            raise NotInTime(f"not within {limit:g} s: {text}")
        time.sleep(pause)
    return value


def seconds_until(predicate: Callable[[], object], limit: float, what: str) -> float:
    """Wait as `wait_until` does; return how many seconds it took."""
    start = time.monotonic()
    wait_until(predicate, limit, what, pause=0.02)
    return time.monotonic() - start


def stays(predicate: Callable[[], object], seconds: float, what: str) -> None:
    """Look for a while; raise AssertionError as soon as `predicate` is not true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert predicate(), f"no longer: {what}"
        time.sleep(0.1)
