"""Processes that outlive the command that started them, and are never confused with others.

A pid alone says nothing once its process has ended, since the kernel reuses it. `ProcessId` adds the boot and the start
time, and `end` sends its signals through a pidfd, so no signal can ever reach another process.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# PR_SET_PDEATHSIG fires when the *thread* that started the child ends. This one lives as long as the interpreter, so
# a short-lived thread may start a ControlPlane, for example by asyncio.to_thread.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """One process, for all time: its pid, and what distinguishes it from a later process with the same pid."""

    pid: int
    started: str
    """Boot ID, and start time in clock ticks since that boot."""

    def alive(self) -> bool:
        """Whether exactly this process is still running."""
        return _started(self.pid) == self.started


def spawn(
    command: Sequence[str], *, directory: Path, log: Path, tethered: bool
) -> tuple[subprocess.Popen[bytes], ProcessId]:
    """Start `command` in `directory`, and append its output to `log`.

    A tethered process is killed when ours ends; any other keeps running.
    """
    tether = [sys.executable, "-IS", str(Path(__file__).with_name("tethered.py")), str(os.getpid())]
    argv = [*tether, *command] if tethered else list(command)

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                argv,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C must reach only us: we stop them in order
            )

    child = _spawner.submit(start).result()
    return child, identify(child.pid)


def identify(pid: int) -> ProcessId:
    """The process that has this pid now."""
    return ProcessId(pid=pid, started=_started(pid) or "")


def end(process: ProcessId, *, kill: bool = False, grace_seconds: float = 20) -> None:
    """Stop the process, kill it after `grace_seconds`, and return when it is gone. Fine if it already is."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if not process.alive():  # checked after the open: the descriptor can't refer to another process any more
            return
        for number, patience in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, None)):
            if kill and number is not signal.SIGKILL:
                continue
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
            if select.select([pidfd], [], [], patience)[0]:
                return
    finally:
        os.close(pidfd)


def _started(pid: int) -> str | None:
    """Boot ID and start time of the process; None if there is none, or only its exit status is left."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may contain spaces and brackets: proc(5)
    if state in "ZX":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{fields[18]}"
