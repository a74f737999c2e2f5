"""Pure. The tree of errors, by what the caller can do about them.

The message says what went wrong and on which object; `hint` says what to do next. Foreign errors
(netlink, aiohttp, SQL, OS) are mapped to these once, at the border where they arise. The CLI prints
`message` and `hint` on two lines and exits with `exit_code`.
"""

from __future__ import annotations


class MeshnetError(Exception):
    """Something meshnet can explain. `hint` is one imperative sentence, or empty."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def whole(self) -> str:
        """Message and hint in one line, for those who show but one."""
        return f"{self.message}. {self.hint}" if self.hint else self.message


class BadInput(MeshnetError):
    """The caller gave something that cannot be right; giving it again will not help."""

    exit_code = 2


class NotFound(MeshnetError):
    """The object named does not exist."""

    exit_code = 3


class Conflict(MeshnetError):
    """The object exists already, or something else holds what was asked for."""

    exit_code = 4


class Refused(MeshnetError):
    """The other side understood and said no."""

    exit_code = 5


class Unavailable(MeshnetError):
    """The other side is not there or cannot answer now; trying later may help."""

    exit_code = 6


class KernelRefused(MeshnetError):
    """The kernel refused one operation. `errno` is its number."""

    exit_code = 7

    def __init__(self, message: str, errno: int, hint: str = "") -> None:
        super().__init__(message, hint)
        self.errno = errno


class NotAuthentic(MeshnetError):
    """A signature, a pin or a proof does not hold; the object must not be used."""

    exit_code = 8


class TokenError(Refused):
    """A join token that cannot be used; each cause has its own exit code."""


class TokenTruncated(TokenError):
    """A token shorter than it says it is."""

    exit_code = 10


class TokenDamaged(TokenError):
    """A token whose characters were altered."""

    exit_code = 11


class TokenUnknown(TokenError):
    """A well-formed token this mesh never gave out."""

    exit_code = 12


class TokenExpired(TokenError):
    """A token past its time to live."""

    exit_code = 13


class TokenRevoked(TokenError):
    """A token an administrator has revoked."""

    exit_code = 14


class TokenUsedUp(TokenError):
    """A token redeemed as many times as it allows."""

    exit_code = 15


class PinMismatch(NotAuthentic):
    """A coordinator that holds another key than the one the token names."""

    exit_code = 16


class RateLimited(Unavailable):
    """Too many failed attempts from one address."""

    exit_code = 17
