"""Servers by URL, where one name can stand for several: ``dns+http://engines:30000`` means every
address of that name, as a headless Service of Kubernetes gives one for each pod."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

DNS_PREFIX = "dns+"
REFRESH_S = 15.0
"""Seconds between two look-ups of a name: how soon a new pod is noticed."""


async def addresses_of(url: str) -> list[str]:
    """`url` itself; or, of ``dns+http://name:port``, one URL for each address of the name.

    Empty where the name has none now: its pods may yet come.
    """
    if not url.startswith(DNS_PREFIX):
        return [url.rstrip("/")]
    parts = urlsplit(url.removeprefix(DNS_PREFIX))
    port = parts.port or (443 if parts.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    hosts = dict.fromkeys(f"[{a[4][0]}]" if a[0] == socket.AF_INET6 else a[4][0] for a in found)
    return [f"{parts.scheme}://{host}:{port}" for host in hosts]
