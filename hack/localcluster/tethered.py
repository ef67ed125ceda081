"""`python tethered.py PARENT COMMAND...`: become COMMAND, and be killed when the process PARENT ends, however it ends.

The kernel does the killing (PR_SET_PDEATHSIG), so it also works when PARENT gets SIGKILL. It is a separate
program because code between fork and exec can deadlock in a threaded Python. Standard library only: it starts in 20 ms.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Replace this process with the command; the request to be killed survives the exec."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it ended before the prctl
        sys.exit("the parent is gone")
    os.execv(command[0], command)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main()
