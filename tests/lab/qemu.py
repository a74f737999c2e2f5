"""Shell. A guest kernel with WireGuard, for machines without: QEMU and the distribution's kernel.

    python -m tests.lab.qemu run --timeout SECONDS -- COMMAND

    here                                     guest
    ─────────────────────────────────────    ──────────────────────────────────────────────
    /              ── 9p, read-only ───────▶ lower layer of an overlay, writes go to memory
    kernel and modules of a Debian package   initramfs: busybox and the modules for the above
    stdout         ◀─ virtio port 1 ──────── output of COMMAND
    status         ◀─ virtio port 2 ──────── `started`, then COMMAND's status

COMMAND runs as root in our working directory with our environment, over this machine's own files:
a virtual environment and a source tree work inside as they are. The kernel's package is unpacked
below the cache directory (400 MB) and never installed. Exits with COMMAND's status, with 124 after
the timeout, 125 when the guest failed.

KVM is used where it works. Without it the processor is emulated, and Python runs some fifteen
times slower: therefore tests/lab/guest.py asks only for the quick tests then.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

QEMU = "qemu-system-x86_64"
NEEDED = {QEMU: "qemu-system-x86", "busybox": "busybox-static", "depmod": "kmod", "apt-get": "apt"}
"""Programs, and the packages they come in."""

PACKAGE = "linux-image-amd64"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "meshnet-guest"
MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
MEMORY_MIB = int(os.environ.get("MESHNET_GUEST_MIB", "4096"))

NO_KVM = CACHE / "no-kvm"
"""Written when KVM stood still, as some do instead of failing; it is tried again after a day."""
DAY = 86400.0

STARTS_WITHIN = {"kvm": 20.0, "tcg": 120.0}
"""Seconds until the guest says that it started."""
FAILED, TIMED_OUT = 125, 124

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t devtmpfs none /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
mkdir /host /memory /new
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose root /host
mount -t tmpfs -o size=75% none /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work none /new
cd /new
mount -t proc none proc
mount -t sysfs none sys
mount -t devtmpfs none dev
mkdir -p dev/pts dev/shm lib/modules/$(uname -r) .guest
mount -t devpts -o ptmxmode=666 none dev/pts
mount -t tmpfs none dev/shm
mount -t tmpfs -o mode=755 none run
mount -t cgroup2 none sys/fs/cgroup
given=$(sed 's/.*guest.given=\\([^ ]*\\).*/\\1/' /proc/cmdline)
mount --bind /host$given .guest
mount --bind /host$(cat .guest/modules) lib/modules/$(uname -r)
out=$(echo /dev/vport*p1)
exec switch_root . /bin/sh /.guest/run </dev/null >$out 2>&1
"""

RUN = """
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ip link set lo up
modprobe wireguard
status=$(echo /dev/vport*p2)
echo started >$status
(. /.guest/command)
echo $? >$status
sync
echo o >/proc/sysrq-trigger
sleep 60
"""


class GuestFailed(Exception):
    """The guest could not be made or did not come up; the message says why."""


def missing() -> str:
    """Return why no guest can run here, or ''."""
    if platform.machine() != "x86_64":
        return f"the QEMU guest is for x86_64, this is {platform.machine()}"
    packages = sorted(package for name, package in NEEDED.items() if not shutil.which(name))
    return f"no QEMU guest: apt install {' '.join(packages)}" if packages else ""


def accelerators() -> tuple[str, ...]:
    """Return what QEMU is to be started with, the best first."""
    failed = NO_KVM.exists() and time.time() - NO_KVM.stat().st_mtime < DAY
    return ("kvm", "tcg") if os.access("/dev/kvm", os.W_OK) and not failed else ("tcg",)


def run(command: Sequence[str], timeout: float) -> int:
    """Run a command in a guest, its output on our standard output; return its status."""
    kernel = Kernel.ready()
    with tempfile.TemporaryDirectory(prefix="guest-") as given:
        _write_given(Path(given), kernel, command)
        for accelerator in accelerators():
            status = _boot(kernel, Path(given), accelerator, timeout)
            if status is not None:
                return status
            if accelerator == "kvm":
                NO_KVM.touch()
        consoles = sorted(Path(given).glob("console-*"))
        words = [path.read_text(errors="replace")[-2000:] for path in consoles]
    raise GuestFailed("\n".join(["the guest did not start; its last words:", *words]))


class Kernel:
    """The distribution's kernel, unpacked, with an initramfs of ours."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.image = next(home.glob("boot/vmlinuz-*"))
        self.version = self.image.name.removeprefix("vmlinuz-")
        self.modules = next(home.glob(f"**/lib/modules/{self.version}"))
        self.initramfs = home / "initramfs.gz"

    @classmethod
    def ready(cls) -> Kernel:
        """Return the kernel in the cache; fetch it when there is none."""
        for path in sorted(CACHE.glob("linux-*/initramfs.gz")):
            return cls(path.parent)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            package = _download(Path(work))
            subprocess.run(["dpkg-deb", "-x", package, f"{work}/root"], check=True)
            kernel = cls(Path(work, "root"))
            kernel.initramfs.write_bytes(gzip.compress(kernel.pack_initramfs(), 1))
            home = CACHE / f"linux-{kernel.version}"
            kernel.home.replace(home)
            return cls(home)

    def pack_initramfs(self) -> bytes:
        """Return an archive (cpio(5), `newc`) of busybox, INIT and the modules it inserts."""
        subprocess.run(["depmod", "-b", self.modules.parents[2], self.version], check=True)
        order = list(self._in_order())
        files = {"init": INIT.encode(), "bin/busybox": Path(_find("busybox")).read_bytes()}
        for path in order:
            data = path.read_bytes()
            plain = lzma.decompress(data) if path.suffix == ".xz" else data
            files[f"modules/{_plain_name(path)}"] = plain
        files["modules/order"] = " ".join(map(_plain_name, order)).encode()
        archive = [_entry(name, 0o040755, b"") for name in ("bin", "modules", "proc", "dev")]
        archive += [_entry(name, 0o100755, data) for name, data in files.items()]
        return b"".join([*archive, _entry("TRAILER!!!", 0, b"")])

    def _in_order(self) -> Iterator[Path]:
        """Yield the files of MODULES and of all that they need, needed ones first."""
        seen: set[Path] = set()
        for module in MODULES:
            words = ["modprobe", "-d", str(self.modules.parents[2]), "-S", self.version]
            asked = [*words, "--show-depends", module]
            said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
            for line in said.splitlines():
                kind, _, path = line.strip().partition(" ")
                if kind == "insmod" and Path(path) not in seen:
                    seen.add(Path(path))
                    yield Path(path)


def _download(directory: Path) -> Path:
    """Fetch the package that PACKAGE stands for, from the machine's own apt sources."""
    asked = ["apt-cache", "depends", PACKAGE]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    names = [line.split()[-1] for line in said.splitlines() if "Depends: linux-image-" in line]
    if not names:
        raise GuestFailed(f"apt knows no {PACKAGE}: apt-get update")
    print(f"fetching {names[0]} for a guest kernel (once)", file=sys.stderr)
    subprocess.run(["apt-get", "download", "-qq", names[0]], cwd=directory, check=True)
    return next(directory.glob("*.deb"))


def _entry(name: str, mode: int, data: bytes) -> bytes:
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def _plain_name(path: Path) -> str:
    return path.name.removesuffix(".xz")


def _find(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise GuestFailed(f"{program} is missing")
    return found


def _write_given(given: Path, kernel: Kernel, command: Sequence[str]) -> None:
    """Write what the guest finds in /.guest."""
    exports = [f"export {key}={shlex.quote(value)}" for key, value in os.environ.items()]
    lines = [*exports, f"cd {shlex.quote(str(Path.cwd()))}", f"exec {shlex.join(command)}"]
    (given / "command").write_text("\n".join(lines) + "\n")
    (given / "run").write_text(RUN)
    (given / "modules").write_text(str(kernel.modules))


def _boot(kernel: Kernel, given: Path, accelerator: str, timeout: float) -> int | None:
    """Boot, run the command, power off; return its status, None when the guest did not start."""
    status = given / f"status-{accelerator}"
    deadline = time.monotonic() + timeout
    with _qemu(kernel, given, accelerator, status) as guest:
        starts_by = min(deadline, time.monotonic() + STARTS_WITHIN[accelerator])
        while not _said(status) and time.monotonic() < starts_by and guest.poll() is None:
            time.sleep(0.1)
        if not _said(status):
            return None
        while len(_said(status)) < 2 and time.monotonic() < deadline and guest.poll() is None:
            time.sleep(0.1)
        if len(_said(status)) == 2:
            return int(_said(status)[1])
        return TIMED_OUT if guest.poll() is None else FAILED


@contextmanager
def _qemu(
    kernel: Kernel, given: Path, accelerator: str, status: Path
) -> Iterator[subprocess.Popen[bytes]]:
    # A processor that QEMU 7.2 offers this register on, and the host refuses it, does not start.
    processor = "host,-arch-capabilities" if accelerator == "kvm" else "max"
    words = [QEMU, "-accel", accelerator, "-cpu", processor, "-smp", "2", "-m", str(MEMORY_MIB)]
    words += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    words += ["-kernel", str(kernel.image), "-initrd", str(kernel.initramfs)]
    options = f"quiet panic=-1 mitigations=off edd=off console=ttyS0 guest.given={given}"
    words += ["-append", options, "-serial", f"file:{given}/console-{accelerator}"]
    shared = "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"
    words += ["-fsdev", shared, "-device", "virtio-9p-pci,fsdev=root,mount_tag=root"]
    words += ["-device", "virtio-serial-pci"]
    # `stdio` would hang up when standard input ends, and the guest would wait for ever.
    for name, path in (("out", "/proc/self/fd/1"), ("status", status)):
        words += ["-chardev", f"file,id={name},path={path},append=on"]
        words += ["-device", f"virtserialport,chardev={name}"]
    guest = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        yield guest
    finally:
        guest.kill()
        guest.wait()


def _said(status: Path) -> list[str]:
    """Return the lines that are complete."""
    text = status.read_text() if status.exists() else ""
    return text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a command under a guest kernel.")
    parser.add_argument("run", choices=["run"])
    parser.add_argument("--timeout", type=float, default=1800.0)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    try:
        if why := missing():
            raise GuestFailed(why)
        return run(arguments.command, arguments.timeout)
    except (GuestFailed, subprocess.CalledProcessError) as error:
        print(f"guest: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
