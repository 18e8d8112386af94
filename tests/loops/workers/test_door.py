"""Who comes through the controller's door: whoever has read this run's secret, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from sdpo_megatron.loops.workers.channel import Channel
from sdpo_megatron.loops.workers.door import FILE, Door, DoorKeeper, NotOurs, _own_addresses

HERE = "127.0.0.1"


class Opened:
    """An open door, who came in, and what the user was told."""

    def __init__(self, folder: Path) -> None:
        self.came: asyncio.Queue[Channel] = asyncio.Queue()
        self.told: list[str] = []
        self.keeper = DoorKeeper(folder, self.came.put_nowait, self.told.append)
        self._folder = folder

    async def __aenter__(self) -> Opened:
        await self.keeper.open(HERE, 0)
        door = Door.read(self._folder)
        assert door is not None
        self.door = door
        return self

    async def __aexit__(self, *_: object) -> None:
        self.keeper.close()
        while not self.came.empty():
            await self.came.get_nowait().close()


def test_both_sides_prove_themselves_and_then_talk(tmp_path: Path) -> None:
    async def main() -> None:
        async with Opened(tmp_path) as opened:
            worker = await opened.door.enter(5.0)
            worker.send("hello", name="cell-7")
            controller = await opened.came.get()
            assert await controller.receive() == {"kind": "hello", "name": "cell-7"}
            controller.send("welcome")
            assert await worker.receive() == {"kind": "welcome"}
            await worker.close()
            assert await controller.receive() is None
            await controller.close()
        assert opened.told == []

    asyncio.run(main())


def test_the_secret_is_the_owner_s_alone_new_each_time_and_gone_with_the_controller(
    tmp_path: Path,
) -> None:
    async def main() -> list[str]:
        secrets = []
        for _ in range(2):
            async with Opened(tmp_path) as opened:
                assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
                secrets.append(opened.door.secret)
            assert Door.read(tmp_path) is None
        return secrets

    first, second = asyncio.run(main())
    assert first != second
    assert len(bytes.fromhex(first)) == 32


def test_a_worker_with_another_secret_finds_out_that_this_is_not_its_run(tmp_path: Path) -> None:
    async def main() -> None:
        async with Opened(tmp_path) as opened:
            for _ in range(2):
                with pytest.raises(NotOurs, match="does not know this run's secret"):
                    await replace(opened.door, secret="00" * 32).enter(5.0)
            while not opened.told:
                await asyncio.sleep(0.01)
            assert opened.came.empty()
        assert [HERE in text for text in opened.told] == [True]  # once, however many knock

    asyncio.run(main())


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"SDPOWRK1" + b"n" * 32 + b"p" * 32,  # a proof made up
        b"\x00\x00\x00\x20" + b'{"kind": "hello", "name": "worker"}',  # what follows a handshake
        b"",
    ],
)
def test_a_stranger_learns_nothing_and_is_heard_by_nobody(tmp_path: Path, said: bytes) -> None:
    async def main() -> bytes:
        async with Opened(tmp_path) as opened:
            reader, writer = await asyncio.open_connection(HERE, opened.door.port)
            writer.write(said)
            writer.write_eof()
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                answer = await asyncio.wait_for(reader.read(), 20)
            writer.close()
            assert opened.came.empty()
            assert opened.door.secret.encode() not in answer
            assert bytes.fromhex(opened.door.secret) not in answer
            return answer

    assert len(asyncio.run(main())) in (0, 64)  # at most a nonce and a proof over the stranger's


def test_a_controller_s_own_proof_is_no_worker_s(tmp_path: Path) -> None:
    """Reflection: what the controller proves cannot be sent back to it."""

    async def main() -> None:
        async with Opened(tmp_path) as opened:
            reader, writer = await asyncio.open_connection(HERE, opened.door.port)
            writer.write(b"SDPOWRK1" + b"n" * 32)
            await reader.readexactly(32)
            writer.write(await reader.readexactly(32))
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
            assert opened.came.empty()

    asyncio.run(main())


def test_addresses_that_others_can_reach_come_first_and_the_wrong_ones_are_passed_over(
    tmp_path: Path,
) -> None:
    four = [ipaddress.ip_address(one) for one in _own_addresses(4)]
    assert all(one.version == 4 for one in four)
    assert four[-1] == ipaddress.ip_address(HERE)
    assert set(four) <= {ipaddress.ip_address(one) for one in _own_addresses(6)}

    async def main() -> None:
        async with Opened(tmp_path) as opened:
            door = replace(opened.door, addresses=("127.0.0.254", HERE))  # nobody listens there
            worker = await door.enter(5.0)
            await worker.close()
            await (await opened.came.get()).close()
            with pytest.raises(OSError, match="Connect call failed"):
                await replace(door, addresses=("127.0.0.254",)).enter(5.0)

    asyncio.run(main())


@pytest.mark.parametrize("content", ["", "{", '{"addresses": ["127.0.0.1"]}', "[]"])
def test_a_file_that_says_no_door_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert Door.read(tmp_path) is None
    assert Door.read(tmp_path / "missing") is None
