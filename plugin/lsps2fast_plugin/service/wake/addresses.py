"""Which addresses a webhook may lead to: those of the public internet, judged after the name was resolved.

A client chooses the URL, and our machine makes the request: a name that leads to the loopback, to the router or to
the cloud's metadata server would let it ask what only we can reach (SSRF). So the list says what is public; all else is
not, also what Python calls global in one version and not in the next.
"""

from __future__ import annotations

import ipaddress
from typing import Final

_NOT_PUBLIC_4: Final = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
_UNICAST_6: Final = ipaddress.IPv6Network("2000::/3")  # outside: mapped, NAT64, unique local, link local, multicast …
_NOT_PUBLIC_6: Final = tuple(
    map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"))
)


def is_public(text: str) -> bool:
    """Return whether an address is one of the public internet; what is no address is not.

    IPv6 that carries an IPv4 address (mapped, 6to4, Teredo, NAT64) is refused whatever it carries: a resolver that
    answers so has nothing that its IPv4 form does not have.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    if address.scope_id is not None or address not in _UNICAST_6:
        return False
    return not any(address in network for network in _NOT_PUBLIC_6)


def is_loopback(text: str) -> bool:
    """Return whether only this machine has this address."""
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False
