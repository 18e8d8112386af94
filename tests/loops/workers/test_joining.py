"""Workers that nobody here starts: `sdpo worker` processes come, go, and are refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sdpo_megatron.errors import EngineDiedError, WorkerDied
from sdpo_megatron.nouns import PolicyVersion
from sdpo_megatron.rollout.config import SamplingConfig
from tests.loops.workers.crews import publish, scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

OTHERS = ("rollout.workers.count=0", "rollout.workers.listen_address=127.0.0.1")


class Process:
    """An `sdpo worker` at the command line; `said` is what it has printed so far."""

    def __init__(self, run: Path, name: str, *arguments: str, log: Path) -> None:
        self._log = log / f"{name}-{os.urandom(3).hex()}.log"
        command = [sys.executable, "-m", "sdpo_megatron.cli", "worker", str(run), "--name", name]
        with self._log.open("wb") as log_file:
            self.process = subprocess.Popen(
                [*command, *arguments], stdout=log_file, stderr=subprocess.STDOUT
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, 60)


@contextlib.contextmanager
def workers(run: Path, log: Path, *names: str) -> Iterator[list[Process]]:
    """Started before the run; those that are left at the end are killed."""
    log.mkdir(parents=True, exist_ok=True)
    started = [Process(run, name, log=log) for name in names]
    try:
        yield started
    finally:
        for one in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                family = [psutil.Process(one.process.pid)]
                family += family[0].children(recursive=True)
                for process in reversed(family):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            one.process.wait()


def test_groups_are_shared_and_a_worker_that_is_told_to_go_gives_its_own_back(
    tiny_llama: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "logs"

    async def main() -> None:
        with workers(run, log, "cell-a", "cell-b") as (first, second):
            async with scene(tiny_llama, run, *OTHERS, "batch.questions=4") as here:
                await here.until(lambda: sum(ready for _, ready in here.crew.members) == 2)
                here.engine.gate.clear()
                await publish(here, 0, tiny_llama)
                waiting = asyncio.ensure_future(here.crew.next_batch(1, 0))
                await here.until(lambda: here.engine.asked == 12)
                held = {name: here.desk.held_by(name) for name in ("cell-a", "cell-b")}
                assert held == {"cell-a": 2, "cell-b": 2}
                first.process.send_signal(signal.SIGTERM)
                assert await first.ended() == 0
                await here.until(lambda: here.book.returned == {"worker_died": 2})
                await here.until(lambda: here.desk.held_by("cell-b") == 4)
                assert here.pool.engines[0].in_flight <= 12
                assert here.board.value("sdpo_worker_exits_total", worker="cell-a") == 1
                assert here.crew.members == [("cell-b", True)]
                here.engine.gate.set()
                batch = await waiting
                assert sorted(g.lease.number for g in batch) == [0, 0, 1, 1]
                assert here.crew.restarts == 0
            # The controller has gone, and writes nothing more; the worker that is left waits for
            # the next one.
            assert not any("cell-b: its connection ended" in text for text in here.heard)
            assert "told to end" in first.said
            while "the trainer is gone; waiting for the next one" not in second.said:
                await asyncio.sleep(0.05)
            assert not list(run.glob("rollouts/door.json"))

    asyncio.run(main())


def test_a_worker_outlives_its_controller_and_works_for_the_next(
    tiny_llama: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "logs"

    async def main() -> None:
        with workers(run, log, "cell") as (worker,):
            for _ in range(2):
                async with scene(tiny_llama, run, *OTHERS) as here:
                    await publish(here, 0, tiny_llama)
                    batch = await here.crew.next_batch(1, 0)
                    assert len(batch) == 2
                    sums = await here.crew.collect(
                        here.questions[:2], PolicyVersion(0), 7, SamplingConfig(num_attempts=2),
                        lambda: None,
                    )  # fmt: skip
                    assert [one["attempts"] for one in sums] == [2, 2]
            assert worker.process.poll() is None
            assert worker.said.count("a trainer is there") == 2

    asyncio.run(main())


def test_a_stopped_worker_loses_its_groups_and_what_it_was_to_collect_to_another(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """SIGSTOP: its connection stays open. When it goes on, it joins anew under its name."""
    run, log = tmp_path / "run", tmp_path / "logs"
    overrides = (*OTHERS, "rollout.workers.silence_timeout_s=6")

    async def main() -> None:
        with workers(run, log, "slow", "spare") as (slow, _):
            async with scene(tiny_llama, run, *overrides) as here:
                await here.until(lambda: sum(ready for _, ready in here.crew.members) == 2)
                here.engine.gate.clear()
                await publish(here, 0, tiny_llama)
                waiting = asyncio.ensure_future(here.crew.next_batch(1, 0))
                collecting = asyncio.ensure_future(
                    here.crew.collect(
                        here.questions[:2], PolicyVersion(0), 7, SamplingConfig(num_attempts=2),
                        lambda: None,
                    )
                )  # fmt: skip
                await here.until(lambda: here.engine.asked == 10)
                slow.process.send_signal(signal.SIGSTOP)
                await here.until(lambda: here.book.returned == {"worker_died": 1})
                assert any("slow: it said nothing for 6 s" in text for text in here.heard)
                here.engine.gate.set()
                assert sorted(g.lease.number for g in await waiting) == [0, 1]
                assert [one["attempts"] for one in await collecting] == [2, 2]
                slow.process.send_signal(signal.SIGCONT)
                await here.until(lambda: ("slow", True) in here.crew.members)

    asyncio.run(main())


def test_a_second_worker_of_one_name_is_told_so_and_takes_over_when_the_first_goes(
    tiny_llama: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "logs"

    async def main() -> None:
        with workers(run, log, "cell") as (first,):
            async with scene(tiny_llama, run, *OTHERS) as here:
                with workers(run, log, "cell") as (second,):
                    while "a worker named cell is here" not in second.said:
                        await asyncio.sleep(0.05)
                    assert here.crew.members == [("cell", True)]
                    first.process.send_signal(signal.SIGTERM)
                    while "a trainer is there" not in second.said:
                        await asyncio.sleep(0.05)
                    await publish(here, 0, tiny_llama)
                    assert len(await here.crew.next_batch(1, 0)) == 2

    asyncio.run(main())


def broken_worker(run: Path, *lines: str) -> list[str]:
    """The command of an `sdpo worker` named bare, after `lines`: here every machine is sound."""
    main = f"sys.exit(main(['worker', {str(run)!r}, '--name', 'bare']))"
    imports = ("import sys", "from sdpo_megatron.cli import main")
    imports += ("from sdpo_megatron.errors import ConfigError, EngineDiedError",)
    imports += ("import sdpo_megatron.loops.workers.worker as worker",)
    imports += ("from serving.client import EngineClient",)
    return [sys.executable, "-c", "\n".join((*imports, *lines, main))]


def test_a_machine_that_cannot_work_says_why_and_the_run_goes_on_beside_it(
    tiny_llama: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = broken_worker(
        run, "def refuse(*_, **__): raise ConfigError('no landlock')", "worker.open_judge = refuse"
    )

    async def main() -> None:
        async with scene(tiny_llama, run, "rollout.workers.listen_address=127.0.0.1") as here:
            process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
            _, said = await process.communicate()
            assert process.returncode == 2
            assert said.decode().strip().splitlines()[-1] == "sdpo: no landlock"
            assert any("bare cannot work: no landlock" in text for text in here.heard)
            await publish(here, 0, tiny_llama)
            assert len(await here.crew.next_batch(1, 0)) == 2  # worker-0's

    asyncio.run(main())


UNREACHABLE = (
    "async def generate(self, *_): raise EngineDiedError('no route to host')",
    "EngineClient.generate = generate",
)


def test_a_machine_that_does_not_reach_an_engine_takes_it_from_nobody_else(
    tiny_llama: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    overrides = ("rollout.workers.listen_address=127.0.0.1", "rollout.engine.start_timeout_s=3")

    async def main() -> None:
        async with scene(tiny_llama, run, *overrides) as here:
            process = await asyncio.create_subprocess_exec(
                *broken_worker(run, *UNREACHABLE), stderr=subprocess.DEVNULL
            )
            await here.until(lambda: ("bare", True) in here.crew.members)
            await publish(here, 0, tiny_llama)
            batch = await here.crew.next_batch(1, 0)
            assert sorted(g.lease.number for g in batch) == [0, 1]  # bare's was made by worker-0
            assert any("bare goes without engine" in text for text in here.heard)
            assert any("bare cannot work" in text for text in here.heard)
            assert here.pool.num_restarts == 0
            assert not any("leaves the pool" in text for text in here.heard)
            process.terminate()
            assert await process.wait() == 0

    asyncio.run(main())


def test_what_no_machine_can_do_ends_the_run(tiny_llama: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = (*OTHERS, "rollout.workers.max_restarts=1", "rollout.engine.start_timeout_s=2")

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            *broken_worker(run, *UNREACHABLE), stderr=subprocess.DEVNULL
        )
        async with scene(tiny_llama, run, *overrides) as here:
            await publish(here, 0, tiny_llama)
            with pytest.raises(EngineDiedError):
                await here.crew.next_batch(1, 0)
        process.terminate()
        await process.wait()

    asyncio.run(main())


def test_a_run_that_nobody_joins_ends_and_says_how_to(tiny_llama: Path, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(WorkerDied, match=r"no rollout worker .* 1 s .*: sdpo worker /"):
            async with scene(tiny_llama, tmp_path, *OTHERS, "rollout.workers.start_timeout_s=1"):
                raise AssertionError("nobody works")

    asyncio.run(main())


def test_a_worker_leaves_when_no_trainer_comes(tmp_path: Path) -> None:
    told = ("--patience", "1", "--state", str(tmp_path / "state"))
    process = Process(tmp_path / "run", "cell", *told, log=tmp_path)
    assert process.process.wait(60) == 0
    assert (tmp_path / "state").read_text() == "waiting\n"
    assert "no trainer listens there" in process.said
    assert "no trainer came within 1 s" in process.said
