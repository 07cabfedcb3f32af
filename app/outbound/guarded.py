"""The guarded HTTP client: posts to addresses that others have named, and never to where only we can reach.

The name is resolved here, every address is judged, and the connection is made to a judged address: what the name says a
moment later makes no difference. No redirect is followed, no proxy of the environment is used, an answer is read up to a
limit and within a deadline.
"""

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpcore

WITHIN_SECONDS = 15.0
CONNECT_WITHIN_SECONDS = 5.0
MOST_OF_AN_ANSWER = 65_536
LONGEST_URL = 2_000
PORTS = {"https": 443, "http": 80}
RESOLVERS = 32  # a name server that does not answer holds one for its own time; no other lane waits for it
GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
NOT_PUBLIC = tuple(  # beside what the standard library's tables, which differ from release to release, call private
    ipaddress.ip_network(n) for n in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "198.18.0.0/15", "3fff::/20", "2001:db8::/32")
)
ISATAP = (0x00005EFE, 0x02005EFE)
EMBEDDED_IPV4 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"), ipaddress.ip_network("::/96"))


class AddressRefused(Exception):
    """The address must not be called: not https, credentials in it, or a place that is not public."""


class NoAnswer(Exception):
    """No whole answer came in time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, and how long it took."""

    status: int
    milliseconds: int


def checked_url(url: str, allowed: Iterable[str] = ()) -> SplitResult:
    """Return the parts of an address that may be called as far as it shows by itself. Raises AddressRefused with a sentence.

    `allowed`: hosts (`host:port`) that the operator lets through, also without TLS.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("ascii").decode()
    except (ValueError, UnicodeError):
        message = "is not an address"
        raise AddressRefused(message) from None
    if len(url) > LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url or not host:
        message = f"is not an address of at most {LONGEST_URL} visible ASCII characters (xn-- and %-escapes for others)"
        raise AddressRefused(message)
    if parts.username is not None or parts.password is not None or parts.fragment:
        message = "must hold no credentials and no fragment"
        raise AddressRefused(message)
    if _is_allowed(host, port or PORTS.get(parts.scheme, 0), allowed):
        if parts.scheme not in PORTS:
            message = "must begin with https:// or http://"
            raise AddressRefused(message)
        return parts
    if parts.scheme != "https":
        message = "must begin with https:// (the operator may let a host through: IPT_WEBHOOK_ALLOWED_HOSTS)"
        raise AddressRefused(message)
    if "." not in host.rstrip(".") and ":" not in host:
        message = "must name a public host"
        raise AddressRefused(message)
    for literal in _literals(host):
        check_public(literal)
    return parts


def check_public(address: str) -> None:
    """Raise AddressRefused unless an IP address lies in the public internet, also when it carries an IPv4 address inside."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and any(ip in net for net in EMBEDDED_IPV4):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            check_public(str(inner))
            if ip.ipv4_mapped is None:
                message = "is not in the public internet"
                raise AddressRefused(message)
            return
        if ip not in GLOBAL_IPV6 or (int(ip) >> 32) & 0xFFFFFFFF in ISATAP:
            message = "is not in the public internet"
            raise AddressRefused(message)
    if not ip.is_global or ip.is_multicast or ip.is_reserved or ip.is_unspecified or any(ip in n for n in NOT_PUBLIC if n.version == ip.version):
        message = "is not in the public internet"
        raise AddressRefused(message)


class _Guard(httpcore.AsyncNetworkBackend):
    """Connects only to public addresses, and to hosts that the operator allows."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = tuple(allowed)
        self._plain = httpcore.AnyIOBackend()
        self.resolvers = ThreadPoolExecutor(RESOLVERS, "resolver")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the backend's own signature
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> Any:
        """Resolve, judge every address, and connect to the first that answers."""
        del local_address
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_WITHIN_SECONDS):
                found = await loop.run_in_executor(self.resolvers, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError, TimeoutError) as error:
            raise httpcore.ConnectError(str(error)) from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not _is_allowed(host, port, self._allowed):
            for address in addresses:
                check_public(address)
        trouble: Exception = httpcore.ConnectError("no address")
        for address in addresses:
            try:
                return await self._plain.connect_tcp(address, port, timeout=timeout, socket_options=socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                trouble = error
        raise trouble

    async def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Any = None) -> Any:  # noqa: ASYNC109
        """Refuse: no address that others name is a socket of this machine."""
        del path, timeout, socket_options
        raise AddressRefused

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class Outbound:
    """The client. `allowed`: hosts (`host:port`) that the operator lets through."""

    def __init__(self, allowed: Iterable[str] = (), within_seconds: float = WITHIN_SECONDS) -> None:
        self.allowed = tuple(allowed)
        self._within = within_seconds
        self._guard = _Guard(self.allowed)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(),
            network_backend=self._guard,
            max_connections=100,
            max_keepalive_connections=0,  # a name is resolved and judged anew for every request
            retries=0,
        )

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post, and return the status of the answer, whatever it is. Raises AddressRefused, NoAnswer."""
        checked_url(url, self.allowed)
        started = time.monotonic()
        sent = [(k.encode(), v.encode()) for k, v in {**headers, "Accept-Encoding": "identity"}.items()]
        status = None
        limits = {"connect": CONNECT_WITHIN_SECONDS, "read": self._within, "write": self._within, "pool": self._within}
        try:
            async with (
                asyncio.timeout(self._within),
                self._pool.stream("POST", url, headers=sent, content=body, extensions={"timeout": limits}) as answer,
            ):
                status, seen = answer.status, 0
                async for part in answer.aiter_stream():
                    seen += len(part)
                    if seen > MOST_OF_AN_ANSWER:
                        break
        except AddressRefused:
            raise
        except Exception as error:
            if status is None:  # with the status known the body does not matter
                raise NoAnswer(type(error).__name__) from error
        return Answer(status, round((time.monotonic() - started) * 1000))

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.aclose()
        self._guard.resolvers.shutdown(wait=False, cancel_futures=True)


def _is_allowed(host: str, port: int, allowed: Iterable[str]) -> bool:
    return f"{host.strip('[]')}:{port}".lower() in {a.strip().lower().replace("[", "").replace("]", "") for a in allowed}


def _literals(host: str) -> list[str]:
    """Return the IP address that a host spells, in any of the spellings that resolvers take (octal, hex, one number)."""
    try:
        return [str(ipaddress.ip_address(host.strip("[]").partition("%")[0]))]
    except ValueError:
        pass
    try:
        return [socket.inet_ntoa(socket.inet_aton(host))]
    except OSError:
        return []
