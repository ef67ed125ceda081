"""The wire between this machine and a node: a veth pair, one end of which moves into the node's network namespace.

Each node has a /24 of 10.213.0.0/16: this machine is .1 on the wire, the node is .2, its Pods have the upper half. Both
ends, their addresses and the route disappear with the namespace; nothing else on this machine is touched.

Numbers are reused, so the owner's token, which is the alias of our end, identifies the wire.
"""

import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

WIRES = 256
SERVICES = "10.0.0.0/24"
"""The addresses of Services. They exist only inside a cluster, so all clusters can use the same."""


class WireError(Exception):
    """`ip` failed; the message has its output."""


@dataclass(frozen=True, slots=True)
class Wire:
    """One of 256 wires, identified by its number."""

    number: int
    token: str

    @property
    def name(self) -> str:
        """The name of our end, and of whatever else a running node has on this machine."""
        return f"psu{self.number}"

    @property
    def far_end(self) -> str:
        """The name of the node's end."""
        return f"{self.name}n"

    @property
    def host(self) -> str:
        """This machine's address for the node and its Pods."""
        return f"10.213.{self.number}.1"

    @property
    def node(self) -> str:
        """The address of the node."""
        return f"10.213.{self.number}.2"

    @property
    def pods(self) -> str:
        """The addresses of the node's Pods."""
        return f"10.213.{self.number}.128/25"

    @classmethod
    def lay(cls) -> "Wire":
        """A new wire, with both ends still here, on a network that only the default route covers. Raises WireError."""
        for number in range(WIRES):
            wire = cls(number, secrets.token_hex(8))
            if _ip("route", "show", "to", "root", f"10.213.{number}.0/24").strip():
                continue
            try:
                _ip("link", "add", wire.name, "type", "veth", "peer", "name", wire.far_end)
            except WireError as error:
                if "exists" in str(error):  # someone else took this number meanwhile
                    continue
                raise
            try:
                wire._address()
            except BaseException:
                _ip("link", "delete", wire.name)
                raise
            return wire
        raise WireError(f"all {WIRES} networks for nodes are in use; `ip link` shows them as psu*")

    def hand_over(self, pid: int) -> None:
        """Move the far end into the network namespace of this process. Raises WireError."""
        _ip("link", "set", self.far_end, "netns", str(pid))

    def plug_in(self) -> None:
        """In the node, once the far end is there: give it its address. Raises WireError."""
        _ip("link", "set", "lo", "up")
        _ip("link", "set", self.far_end, "name", "eth0")
        _ip("address", "add", f"{self.node}/30", "dev", "eth0")
        _ip("link", "set", "eth0", "up")
        # A Service's address needs a route before it is translated. There is no other route out.
        _ip("route", "add", SERVICES, "via", self.host)

    def is_anothers(self) -> bool:
        """Whether another node has our number by now."""
        alias = Path("/sys/class/net", self.name, "ifalias")
        return alias.exists() and alias.read_text().strip() != self.token

    def remove(self) -> None:
        """Remove both ends. Fine if they are gone. Raises WireError."""
        if not Path("/sys/class/net", self.name).exists():
            return
        try:
            _ip("link", "delete", self.name)
        except WireError as error:
            if "Cannot find device" not in str(error):  # the end of the node's namespace was faster
                raise

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
