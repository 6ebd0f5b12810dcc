"""HTTP proxies that the environment names: never for this machine, and named where they fail."""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from urllib.parse import urlsplit


def opener(url: str) -> urllib.request.OpenerDirector:
    """An opener for requests to a server: past the proxies of the environment on this machine."""
    handler = urllib.request.ProxyHandler({} if is_loopback(_host(url)) else None)
    return urllib.request.build_opener(handler)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine by itself; asks no name server."""
    name = host.strip("[]").rstrip(".").lower()
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    mapped = getattr(address, "ipv4_mapped", None) or address
    # 0.0.0.0, where a server that listens on every address says it is, is this machine too.
    return bool(mapped.is_loopback or mapped.is_unspecified)


def used_proxy(url: str, *, past_loopback: bool = True) -> str | None:
    """The proxy of requests to a URL with its variable, such as ``http_proxy is http://a:9``.

    None where requests go straight to the server. A user and password are left out. past_loopback:
    False for libraries that ask a proxy for this machine too.
    """
    scheme, _, rest = url.partition("://")
    server = rest.partition("/")[0].rpartition("@")[2]
    proxy = urllib.request.getproxies().get(scheme.lower())
    if not proxy or urllib.request.proxy_bypass(server):
        return None
    if past_loopback and is_loopback(_host(url)):
        return None
    variable = f"{scheme.lower()}_proxy"
    names = [n for n, v in os.environ.items() if n.lower() == variable and v == proxy]
    return f"{names[0] if names else variable} is {without_password(proxy)}"


def without_password(url: str) -> str:
    """The address of a server without a user and password."""
    head, slashes, address = url.rpartition("//")
    return head + slashes + address.rpartition("@")[2]


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
