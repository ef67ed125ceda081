"""Which addresses a credential may be sent to, and which of them are this machine or its node."""

from __future__ import annotations

import ipaddress
import urllib.parse
from collections.abc import Collection

_EC2_NETWORK = ipaddress.ip_network("fd00:ec2::/32")
"""Link-local in all but name: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html"""


def is_endpoint(url: str) -> bool:
    """Whether it is an http or https URL of only host, port and path, so that a path can be appended."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    bare = parts.username is None and parts.password is None and not parts.query and not parts.fragment
    return parts.scheme in ("http", "https") and bool(host) and bare


def is_safe_url(url: str) -> bool:
    """Whether a credential may be sent there: it is https, or never leaves the machine."""
    scheme, host = _scheme_and_host(url)
    return bool(host) and (scheme == "https" or (scheme == "http" and is_loopback(url)))


def is_loopback(url: str) -> bool:
    """Whether the host is this machine; never asked through a proxy."""
    _, host = _scheme_and_host(url)
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def is_link_local(url: str) -> bool:
    """Whether only the node answers at the address, such as a metadata server; never asked through a proxy."""
    _, host = _scheme_and_host(url)
    address = _address(host)
    return address is not None and (address.is_link_local or address in _EC2_NETWORK)


def is_host_in(url: str, exceptions: Collection[str]) -> bool:
    """Whether the host is one of these: an address, or a domain, which means its subdomains too.

    With a leading dot it means these alone, as in golang.org/x/net/http/httpproxy.
    """
    _, host = _scheme_and_host(url)
    return any(host == each.strip("[]") or host.endswith(f".{each.removeprefix('.')}") for each in exceptions)


def host_and_port(url: str) -> str:
    """Where a request goes, for the log: without user, path and query, which may hold a credential."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        return "an address that can't be read"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _scheme_and_host(url: str) -> tuple[str, str]:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme, parts.hostname or ""
    except ValueError:
        return "", ""


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address; None if the host is a name. An IPv4 address that is written as IPv6 counts as IPv4."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
