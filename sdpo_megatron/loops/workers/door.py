"""The controller's door for rollout workers of other machines, and how one finds it.

The run folder, which such a worker needs in any case, holds ``rollouts/door.json`` while a
controller listens: where it is, and a secret of this start of it. Each side proves to the other
that it has read the secret, by HMAC-SHA256 over both sides' nonces; the secret itself does not
travel. What follows is not encrypted: leases, receipts, rewards.

    worker      magic, nonce
    controller  nonce, HMAC(secret, "controller" + the worker's nonce + its own)
    worker      HMAC(secret, "worker" + the controller's nonce + its own)
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from sdpo_megatron.files import write_whole
from sdpo_megatron.loops.workers.channel import Channel

FILE = "door.json"
"""Below the run's ``rollouts`` folder."""
_MAGIC = b"SDPOWRK1"
_NONCE = 32
_PROOF = 32
_HANDSHAKE_S = 10.0

Hear = Callable[[Channel], None]
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class NotOurs(ConnectionError):
    """Whoever is at the other end has not read this run's secret."""


@dataclass(frozen=True)
class Door:
    """Attributes:
    addresses: Where the controller can be reached, the likeliest first.
    port: There.
    secret: Of this start of the controller, hexadecimal.
    """

    addresses: tuple[str, ...]
    port: int
    secret: str

    @classmethod
    def read(cls, rollouts: Path) -> Door | None:
        """The door of the run; None while nobody listens.

        Raises:
            PermissionError: It belongs to another user.
        """
        try:
            plain = json.loads((rollouts / FILE).read_text())
            return cls(tuple(plain["addresses"]), plain["port"], plain["secret"])
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None

    async def enter(self, silence_s: float) -> Channel:
        """A channel to the controller.

        Args:
            silence_s: What is sent and not acknowledged for so long ends the channel.

        Raises:
            OSError: It is not there, or somebody else is (`NotOurs`).
        """
        problem: OSError = ConnectionRefusedError("no address")
        for address in self.addresses:
            try:
                async with asyncio.timeout(_HANDSHAKE_S):
                    streams = await asyncio.open_connection(address, self.port)
                    with _closed_on_failure(streams):
                        await _present(*streams, self.secret)
            except OSError as error:
                problem = error
                continue
            line: socket.socket = streams[1].get_extra_info("socket")
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1e3 * silence_s))
            return Channel(*streams)
        raise problem


class DoorKeeper:
    """Listens, and has what comes in proved."""

    def __init__(self, rollouts: Path, hear: Hear, warn: Callable[[str], None]) -> None:
        """`hear` gets the channel of each worker that has proved itself."""
        self._file, self._hear, self._warn = rollouts / FILE, hear, warn
        self._secret = secrets.token_hex(32)
        self._server: asyncio.Server | None = None
        self._has_warned = False

    async def open(self, address: str, port: int) -> None:
        """Listen, and say so in the run folder.

        Raises:
            OSError: The port is taken, or the address is not this machine's.
        """
        self._server = await asyncio.start_server(self._meet, address, port)
        taken = self._server.sockets[0].getsockname()[1]
        bound = ipaddress.ip_address(address)
        reachable = _own_addresses(bound.version) if bound.is_unspecified else (address,)
        door = Door(reachable, taken, self._secret)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._file, json.dumps(asdict(door)), mode=0o600)

    def close(self) -> None:
        """Take the file away and stop listening; channels that are open stay so."""
        self._file.unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                with _closed_on_failure((reader, writer)):
                    await _welcome(reader, writer, self._secret)
        except (OSError, asyncio.IncompleteReadError) as error:
            if not self._has_warned:  # once: whoever knocks must not fill the log
                self._has_warned = True
                peer = writer.get_extra_info("peername")
                self._warn(
                    f"a connection from {peer[0] if peer else 'somewhere'} to the workers' port "
                    f"was refused: {error or 'it said nothing'} (further ones are not told)"
                )
            return
        self._hear(Channel(reader, writer))


async def _welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: str) -> None:
    """The controller's half. Raises NotOurs."""
    if await reader.readexactly(len(_MAGIC)) != _MAGIC:
        raise NotOurs("it is no rollout worker of this version")
    theirs, own = await reader.readexactly(_NONCE), secrets.token_bytes(_NONCE)
    writer.write(own + _proof(secret, "controller", theirs, own))
    if not hmac.compare_digest(
        await reader.readexactly(_PROOF), _proof(secret, "worker", own, theirs)
    ):
        raise NotOurs("it does not know this run's secret")


async def _present(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: str) -> None:
    """The worker's half. Raises NotOurs."""
    own = secrets.token_bytes(_NONCE)
    writer.write(_MAGIC + own)
    try:
        theirs, proof = await reader.readexactly(_NONCE), await reader.readexactly(_PROOF)
    except asyncio.IncompleteReadError as error:
        raise NotOurs("it hung up") from error
    if not hmac.compare_digest(proof, _proof(secret, "controller", own, theirs)):
        raise NotOurs("it does not know this run's secret")
    writer.write(_proof(secret, "worker", theirs, own))


def _proof(secret: str, who: str, first: bytes, second: bytes) -> bytes:
    return hmac.digest(bytes.fromhex(secret), who.encode() + first + second, "sha256")


@contextlib.contextmanager
def _closed_on_failure(streams: _Streams) -> Iterator[None]:
    try:
        yield
    except BaseException:
        streams[1].transport.abort()
        raise


def _own_addresses(version: int) -> tuple[str, ...]:
    """This machine's, those that others may reach first; with 6 of both kinds."""
    import psutil

    found = [
        ipaddress.ip_address(entry.address.partition("%")[0])
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]
    usable = [one for one in found if not one.is_link_local and one.version <= version]
    usable.sort(key=lambda one: (one.is_loopback, one.version, one.packed))
    return tuple(map(str, usable))
