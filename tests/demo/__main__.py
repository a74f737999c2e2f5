"""Face. `python -m tests.demo`: play it, keep it, enter it, end it."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
from types import FrameType

from tests.demo import keeper
from tests.demo.screen import Screen
from tests.demo.steps import STEPS, Step
from tests.demo.world import HUB, StepFailed, World
from tests.lab import CommandFailed, Lab
from tests.lab.place import Place

LOG_LINES = 15
PLAYED, FAILED, INTERRUPTED = 0, 1, 130


def main() -> int:
    """Do what was asked for on the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="make demo", description="meshnet, before your eyes")
    parser.add_argument("--keep", action="store_true", help="leave it running")
    parser.add_argument("--enter", metavar="HOST", help="open a shell in one that was kept")
    parser.add_argument("--down", action="store_true", help="end one that was kept")
    asked = parser.parse_args()
    if asked.down:
        print(keeper.end())
        return 0
    if asked.enter:
        return keeper.enter(asked.enter)
    if os.geteuid() != 0:
        print("error: the demo makes network namespaces\nhint: Run it as root.", file=sys.stderr)
        return FAILED
    return play_and_keep() if asked.keep else play(None)


def play_and_keep() -> int:
    """Play in a child that stays; return as soon as the play is over."""
    if keeper.Kept.found():
        print("error: a demo is running already\nhint: `make demo-down` ends it.", file=sys.stderr)
        return FAILED
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        os._exit(play(writing))
    os.close(writing)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    said = os.read(reading, 1)
    return said[0] if said else FAILED


def play(stays: int | None) -> int:
    """Play all steps; with `stays`, tell the process at its other end how it went, and stay."""
    signal.signal(signal.SIGTERM, _interrupt)
    screen = Screen(len(STEPS))
    status = PLAYED
    try:
        with Lab("meshnet demo") as lab:
            status = _play_all(World(lab, screen, f"secret-{secrets.token_hex(4)}"))
            if stays is not None and status == PLAYED:
                _stay(lab, stays)
                stays = None
    except KeyboardInterrupt:
        screen.failed("interrupted")
        status = INTERRUPTED
    _last_words(screen, status)
    if stays is not None:
        os.write(stays, bytes([status]))
    return status


def _play_all(world: World) -> int:
    for step in STEPS:
        world.screen.step(step.title)
        try:
            step.play(world)
        except Exception as error:
            _explain(world, step, error)
            return FAILED
    return PLAYED


def _explain(world: World, step: Step, error: Exception) -> None:
    """Say which step failed and why, and show the end of the log that tells more."""
    world.screen.failed(f"“{step.title}” failed: {error}")
    name = error.place if isinstance(error, StepFailed | CommandFailed) else ""
    for place in _concerned(world, name):
        for daemon in place.daemons:
            if text := daemon.tail(LOG_LINES):
                world.screen.plain(f"\n--- {place.name}: the end of what {daemon.name} said")
                world.screen.output(text)


def _concerned(world: World, name: str) -> list[Place]:
    """Return where to look for the reason: a machine with its containers, and the coordinator."""
    machine = name.partition(".")[0]
    near = [place for place in world.lab.places if place.name.partition(".")[0] in (machine, HUB)]
    return near if machine else world.lab.places


def _stay(lab: Lab, told: int) -> None:
    print("\nThe demo keeps running.\n" + keeper.how_to_enter(), flush=True)
    os.write(told, bytes([PLAYED]))
    os.close(told)
    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    quiet = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(quiet, number)
    keeper.keep(lab)


def _last_words(screen: Screen, status: int) -> None:
    screen.plain()
    if status == PLAYED:
        screen.found("Everything that was promised held. Everything made is removed.")
        screen.plain("To keep it running and look around: make demo KEEP=1")
        screen.plain(keeper.how_to_enter())
    else:
        screen.plain("Everything made is removed.")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
