"""Pure. How a check of the doctor puts what it found, and what is to be done about drift."""

from __future__ import annotations

from meshnet.plan.evidence import Evidence
from meshnet.wire.local import Finding


def ok(check: str, text: str) -> Finding:
    """Return that all is well there."""
    return Finding(check=check, state="ok", text=text)


def note(check: str, text: str, do: str = "") -> Finding:
    """Return what is to be known, and need not be wrong."""
    return Finding(check=check, state="note", text=text, do=do)


def skipped(check: str, text: str) -> Finding:
    """Return that it could not be judged, and why."""
    return Finding(check=check, state="skipped", text=text)


def wrong(check: str, text: str, do: str) -> Finding:
    """Return what is wrong, and what to do."""
    return Finding(check=check, state="wrong", text=text, do=do)


def mend(evidence: Evidence) -> str:
    """Return what to do where the kernel is not as it should be: the agent's work."""
    if not evidence.agent:
        return "Start the agent, which repairs it: systemctl restart meshnet-agent."
    if evidence.refused:
        return f"The kernel refuses what the agent tries: {evidence.refused[0]}"
    return (
        "The agent repairs this within 5 s. If it comes back, find who else changes it;"
        " `meshnet status` counts the repairs."
    )
