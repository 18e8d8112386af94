"""Rank 0's other half: engines and rollout workers, on an asyncio loop in a thread of its own.

The training loop calls blocking methods; only rank 0 has one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.loops.launching.placement import all_ranks_here, placement_here
from sdpo_megatron.loops.workers.crew import Crew, OnAttempt, QuestionAt
from sdpo_megatron.nouns import GroupReceipt, Message, PolicyVersion, Question
from sdpo_megatron.observability.board import Board
from sdpo_megatron.rollout.config import SamplingConfig
from sdpo_megatron.rollout.desk import Desk
from sdpo_megatron.rollout.summary import Sums
from serving.config import EngineConfig
from serving.pool import EnginePool
from serving.swapping.swap_target import SwapFailure, SwapTarget
from serving.transports.transport import resolve_transport

T = TypeVar("T")


class RolloutSide:
    """Engines and rollout workers of a run. A context manager; nothing of it outlives the block.

    Attributes:
        transport: How weights travel to the engines: distributed, tensor or disk.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: Path,
        model_folder: Path,
        progress: Callable[[str], None],
        board: Board,
    ) -> None:
        """`run` is the run folder; `model_folder` what engines start from."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rollout", daemon=True)
        self._stack = AsyncExitStack()
        self._placement = placement_here(config)
        engine = self._placement.engine_config(config.rollout.engine)
        self.transport = resolve_transport(
            engine,
            shares_gpus=self._placement.shares_gpus,
            one_machine=all_ranks_here(config),
            num_bytes=sum(file.stat().st_size for file in model_folder.glob("*.safetensors")),
        )
        self._pool = EnginePool(
            engine,
            model_folder,
            run / "logs",
            seed=config.run.seed,
            progress=progress,
            board=board,
        )
        self._crew = Crew(config, run, self._pool, progress, board)
        self._starting: Future[None] | None = None
        self._waiting_for: Future[Any] | None = None
        self._cancelled = False

    def __enter__(self) -> RolloutSide:
        self._thread.start()
        # Engines come up while the trainer loads its weights.
        self._starting = self._submit(self._open())
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._starting is not None:
            self._starting.cancel()  # nothing of it is to come up any more
        try:
            self._wait(self._close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=10)

    def wait_ready(self) -> None:
        """Block until engines and a worker are up, or `cancel` was called.

        Raises what went wrong there.
        """
        assert self._starting is not None
        self._unless_cancelled(self._starting)

    def begin(
        self,
        desk: Desk,
        question_at: QuestionAt,
        on_attempt: OnAttempt,
        turns: Callable[[], Sequence[Message]] = tuple,
    ) -> None:
        """Workers may make groups from now on; see `Crew.begin`. From here on `desk` belongs to
        this thread.
        """

        async def begin() -> None:
            self._crew.begin(desk, question_at, on_attempt, turns)

        self._wait(begin())

    def next_batch(self, step: int, version: PolicyVersion) -> list[GroupReceipt] | None:
        """The groups of rollout batch `step` (from 1), to be trained on by `version` next; None
        after `cancel`.
        """
        return self._unless_cancelled(self._submit(self._crew.next_batch(step, version.number)))

    def collect(
        self,
        step: int,
        questions: Sequence[Question],
        version: PolicyVersion,
        on_attempt: Callable[[], None],
        sampling: SamplingConfig,
    ) -> list[Sums] | None:
        """Sample and judge a group per question, for their sums alone; None after `cancel`."""
        return self._unless_cancelled(
            self._submit(self._crew.collect(questions, version, step, sampling, on_attempt))
        )

    def at_desk(self, action: Callable[[], T]) -> T:
        """What `action` returns, called where the desk is not being used by anybody else."""

        async def act() -> T:
            return action()

        return self._wait(act())

    def cancel(self) -> None:
        """Abandon what is waited for now, and what will be; safe from a signal handler."""
        self._cancelled = True
        if self._waiting_for is not None:
            self._waiting_for.cancel()

    def _unless_cancelled(self, work: Future[T]) -> T | None:
        """Its result; None when `cancel` was called."""
        self._waiting_for = work
        if self._cancelled:  # before it could be told
            work.cancel()
        try:
            return work.result()
        except (CancelledError, asyncio.CancelledError):
            return None
        except Exception:
            if self._cancelled:  # what fails now is of no interest any more
                return None
            raise
        finally:
            self._waiting_for = None

    def begin_swap(self, number: int, *, stream: bool) -> SwapTarget:
        """See `EnginePool.begin`."""
        return self._wait(self._pool.begin(number, stream=stream))

    def finish_swap(
        self,
        version: PolicyVersion,
        folder: Path,
        *,
        stream: bool,
        failures: Mapping[str, SwapFailure],
    ) -> None:
        """See `EnginePool.finish`: returns when a quorum serves `version`."""
        self._wait(self._pool.finish(version, folder, stream=stream, failures=failures))

    def published(self, trained_batches: int) -> None:
        """Engines have the weights after so many rollout batches; see `Crew.published`."""

        async def tell() -> None:
            self._crew.published(trained_batches)

        self._wait(tell())

    @property
    def crew(self) -> Crew:
        """For what moves too often to be told: its counts."""
        return self._crew

    def release_memory(self) -> None:
        """See `EnginePool.release_memory`."""
        self._wait(self._pool.release_memory())

    def restart_engines(self, engine: EngineConfig) -> None:
        """See `EnginePool.restart`; they keep their GPUs."""
        self._wait(self._pool.restart(self._placement.engine_config(engine)))

    @property
    def engine_restarts(self) -> int:
        return self._pool.num_restarts

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(_answered(work), self._loop)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._submit(work).result()

    async def _open(self) -> None:
        self._stack.push_async_exit(self._pool)
        self._stack.push_async_callback(self._crew.close)
        await self._crew.open()
        await self._pool.__aenter__()
        self._crew.engines_are_up()
        await self._crew.wait_ready()

    async def _close(self) -> None:
        await self._stack.aclose()


async def _answered(work: Coroutine[Any, Any, T]) -> T:
    """An exit that some library asks for would end the loop's thread and leave the caller waiting
    for ever; as an error it reaches the caller.
    """
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"the rollout side was asked to exit ({error!r})") from error
