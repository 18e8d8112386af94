"""`sdpo verify batch`: verdicts for a file of responses, sharded, resumable, offline.

Each line of the input gets exactly one line in the output. A line that cannot be judged is written
as a failure with its reason and the run goes on; the exit code is then 1, and the same command
again judges those lines anew and nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sdpo_megatron.errors import TaskFileError
from sdpo_megatron.judging.backend import Backend
from sdpo_megatron.judging.local import LocalVerifiers
from sdpo_megatron.judging.offline.basis import basis, subject
from sdpo_megatron.judging.offline.config import OfflineConfig, shard_of
from sdpo_megatron.judging.offline.lines import Response, ResponseFile
from sdpo_megatron.judging.offline.parts import Parts
from sdpo_megatron.judging.pool import PoolConfig
from sdpo_megatron.judging.retry import retried
from sdpo_megatron.judging.wire import verdict_to_json
from sdpo_megatron.tasks import load_task

Announce = Callable[[str], None]


@dataclass
class Tally:
    """Counts of a shard, resumed parts included."""

    name: str
    judged: int = 0
    success: int = 0
    failed: int = 0
    resumed: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Count the lines of a part."""
        self.failed += sum(line["verdict"] is None for line in lines)
        self.success += sum(bool((line["verdict"] or {}).get("success")) for line in lines)
        self.judged += len(lines)

    def line(self) -> str:
        """The progress line."""
        seconds = max(1e-9, time.monotonic() - self.started)
        rate = (self.judged - self.resumed) / seconds
        return (
            f"{self.name}: {self.judged} lines, {self.success} successes, {self.failed} failed, "
            f"{self.resumed} from before, {rate:.1f} lines/s"
        )


def run_batch(
    config: OfflineConfig, *, announce: Announce = lambda line: print(line, flush=True)
) -> int:
    """Judge this shard's lines; 0 if every line has a verdict, 1 if some are written as failures.

    Args:
        config: Input, output, shard, task and limits.
        announce: Takes progress lines.

    Raises:
        TaskFileError: A line is malformed; begins with ``file:line``. Nothing was judged.
        ConfigError: The output folder's verdicts were made differently.
    """
    source = Path(config.input)
    if not source.is_file():
        raise TaskFileError(f"{source}:1: there is no such file")
    shard, num_shards = shard_of(config)
    task = load_task(config.task) if config.task else None
    file = ResponseFile(source, task)
    names = {r.verifier for r in file.responses(shard, num_shards)}  # checks every line first
    parts = Parts(Path(config.output), shard, num_shards)
    parts.claim(basis(config, source, names, task))
    run = _Run(config, parts, Tally(f"shard {shard}/{num_shards}"), announce)
    return asyncio.run(run.all(file, shard, num_shards, frozenset(names)))


class _Run:
    """One shard's run."""

    def __init__(
        self, config: OfflineConfig, parts: Parts, tally: Tally, announce: Announce
    ) -> None:
        self._config, self._parts, self._tally, self._announce = config, parts, tally, announce

    async def all(
        self, file: ResponseFile, shard: int, num_shards: int, names: frozenset[str]
    ) -> int:
        """Judge part by part; the exit code."""
        config, tally, told = self._config, self._tally, time.monotonic()
        pool = PoolConfig(
            workers=config.workers, cpu_limit_s=config.cpu_limit_s, memory_mib=config.memory_mib
        )
        sandbox = replace(config.sandbox, workers=config.workers)
        async with LocalVerifiers(names, pool, sandbox, config.code) as backend:
            rows = file.responses(shard, num_shards)
            for number in itertools.count():
                chunk = list(itertools.islice(rows, config.part_size))
                if not chunk:
                    break
                await self._part(number, chunk, backend)
                if time.monotonic() - told >= config.progress_s:
                    self._announce(tally.line())
                    told = time.monotonic()
        self._parts.finish(
            {"lines": tally.judged, "successes": tally.success, "failed": tally.failed}
        )
        self._announce(f"{tally.line()}; finished")
        return 1 if tally.failed else 0

    async def _part(self, number: int, chunk: list[Response], backend: Backend) -> None:
        """Judge what an earlier run has not; write the part when anything is new."""
        before = self._parts.read(number)
        kept = {
            (line["id"], line["subject"]): line for line in before if line["verdict"] is not None
        }
        slots = asyncio.Semaphore(self._config.workers)

        async def one(response: Response) -> dict[str, Any]:
            about = subject(response.verifier, response.item, response.text)
            line = kept.get((response.id, about))
            if line is not None:
                self._tally.resumed += 1
                return line
            async with slots:
                verdict, failure = await self._judged(response, backend)
            return {"id": response.id, "subject": about, "verdict": verdict, "failure": failure}

        lines = list(await asyncio.gather(*(one(response) for response in chunk)))
        if lines != before:
            self._parts.write(number, lines)
        self._tally.add(lines)

    async def _judged(
        self, response: Response, backend: Backend
    ) -> tuple[dict[str, Any] | None, dict[str, str] | None]:
        """A verdict or why there is none, of which one is None."""
        try:
            verdict = await retried(
                lambda: backend.verify(response.verifier, response.item, response.text),
                retries=self._config.retries,
            )
        except Exception as error:  # one line's failure never stops the others
            return None, {"kind": type(error).__name__, "message": str(error)}
        return verdict_to_json(verdict), None
