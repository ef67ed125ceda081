"""The wire between this machine and a node: a veth pair, one end of which moves into the node's network namespace.

Each node has a /24 of 10.213.0.0/16: this machine is .1 on the wire, the node is .2, its Pods have the upper half. When
the namespace goes, so do both ends, their addresses and the route, and nothing else on this machine was touched.
"""

import subprocess
from contextlib import suppress
from dataclasses import dataclass

WIRES = 256


class WireError(Exception):
    """`ip` did not do what was asked; the message has its own words."""


@dataclass(frozen=True, slots=True)
class Wire:
    """One of 256, told by its number."""

    number: int

    @property
    def name(self) -> str:
        """Of our end of it, and of all else that a node leaves on this machine while it runs."""
        return f"psu{self.number}"

    @property
    def far_end(self) -> str:
        """The end that the node gets."""
        return f"{self.name}n"

    @property
    def host(self) -> str:
        """The address of this machine, for the node and its Pods."""
        return f"10.213.{self.number}.1"

    @property
    def node(self) -> str:
        """The address of the node."""
        return f"10.213.{self.number}.2"

    @property
    def pods(self) -> str:
        """Where the node's Pods are."""
        return f"10.213.{self.number}.128/25"

    @classmethod
    def lay(cls) -> "Wire":
        """A new wire, with addresses that nobody has; both ends are still here. Raises WireError."""
        for wire in map(cls, range(WIRES)):
            if _ip("route", "show", "to", "root", f"10.213.{wire.number}.0/24").strip():
                continue
            try:
                _ip("link", "add", wire.name, "type", "veth", "peer", "name", wire.far_end)
            except WireError as error:
                if "exists" in str(error):  # somebody who asked at the same time
                    continue
                raise
            _ip("address", "add", f"{wire.host}/30", "dev", wire.name)
            _ip("link", "set", wire.name, "up")
            _ip("route", "add", wire.pods, "via", wire.node, "dev", wire.name)
            return wire
        raise WireError(f"all {WIRES} networks for nodes are in use: `ip link` shows them as psu*")

    def hand_over(self, pid: int) -> None:
        """Move the far end into the network namespace of this process. Raises WireError."""
        _ip("link", "set", self.far_end, "netns", str(pid))

    def plug_in(self) -> None:
        """In the node: give the far end, which is there by now, its address. Raises WireError."""
        _ip("link", "set", "lo", "up")
        _ip("link", "set", self.far_end, "name", "eth0")
        _ip("address", "add", f"{self.node}/30", "dev", "eth0")
        _ip("link", "set", "eth0", "up")
        # A Service's address is routed before it is translated: without a default route there would be no route to it.
        _ip("route", "add", "default", "via", self.host)

    def remove(self) -> None:
        """Both ends. Fine if it is gone."""
        with suppress(WireError):
            _ip("link", "delete", self.name)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise WireError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
