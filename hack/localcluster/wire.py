"""The wire between this machine and a node: a veth pair, one end of which moves into the node's network namespace.

Each node has a /24 of 10.213.0.0/16: this machine is .1 on the wire, the node is .2, its Pods have the upper half. When
the namespace goes, so do both ends, their addresses and the route, and nothing else on this machine was touched.

Numbers are used again, so an owner's token, the alias of our end, tells whose wire it is.
"""

import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

WIRES = 256
SERVICES = "10.0.0.0/24"
"""The addresses of Services; of a cluster's own, so that all may have the same."""


class WireError(Exception):
    """`ip` did not do what was asked; the message has its own words."""


@dataclass(frozen=True, slots=True)
class Wire:
    """One of 256, told by its number."""

    number: int
    token: str

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
        """A new wire, on a network that no route is for but the default; both ends are still here. Raises WireError."""
        for number in range(WIRES):
            wire = cls(number, secrets.token_hex(8))
            if _ip("route", "show", "to", "root", f"10.213.{number}.0/24").strip():
                continue
            try:
                _ip("link", "add", wire.name, "type", "veth", "peer", "name", wire.far_end)
            except WireError as error:
                if "exists" in str(error):  # somebody who asked at the same time
                    continue
                raise
            try:
                wire._address()
            except BaseException:
                _ip("link", "delete", wire.name)
                raise
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
        # A Service's address is routed before it is translated. There is no other way out.
        _ip("route", "add", SERVICES, "via", self.host)

    def is_anothers(self) -> bool:
        """Whether our number was given to another node since."""
        alias = Path("/sys/class/net", self.name, "ifalias")
        return alias.exists() and alias.read_text().strip() != self.token

    def remove(self) -> None:
        """Both ends. Fine if it is gone. Raises WireError."""
        if Path("/sys/class/net", self.name).exists():
            _ip("link", "delete", self.name)

    def _address(self) -> None:
        _ip("link", "set", self.name, "alias", self.token)
        _ip("address", "add", f"{self.host}/30", "dev", self.name)
        _ip("link", "set", self.name, "up")
        _ip("route", "add", self.pods, "via", self.node, "dev", self.name)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise WireError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
