"""`sdpo verify batch IN.jsonl OUT`: verdicts for a file of responses, sharded, resumable, offline.

Each line of the input gets exactly one line in the output. A line whose infrastructure failed in
every try is written as a failure, the exit code is 1, and the same command again judges those lines
anew and nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdpo_megatron.errors import TaskFileError, VerifierUnavailable
from sdpo_megatron.judging.local import LocalVerifiers, Verifies
from sdpo_megatron.judging.offline.config import BatchConfig
from sdpo_megatron.judging.offline.parts import Parts
from sdpo_megatron.judging.pool import PoolConfig, VerifierBroken
from sdpo_megatron.judging.retry import retried
from sdpo_megatron.judging.wire import verdict_to_json
from sdpo_megatron.nouns import Question
from sdpo_megatron.sandbox import SandboxConfig
from sdpo_megatron.tasks.lines import Line, read_lines
from sdpo_megatron.tasks.task import Task
from sdpo_megatron.verifiers.base import BadItem

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Response:
    """One line of the input."""

    id: str
    verifier: str
    item: Mapping[str, Any]
    text: str


@dataclass
class Tally:
    """Counts of a shard, resumed parts included."""

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

    def line(self, config: BatchConfig) -> str:
        """The progress line."""
        seconds = max(1e-9, time.monotonic() - self.started)
        rate = (self.judged - self.resumed) / seconds
        return (
            f"shard {config.shard}/{config.num_shards}: {self.judged} lines, "
            f"{self.success} successes, "
            f"{self.failed} failed, {self.resumed} from before, {rate:.1f} lines/s"
        )


def run_batch(
    config: BatchConfig,
    sandbox: SandboxConfig | None = None,
    task: Task | None = None,
    *,
    announce: Announce = lambda line: print(line, flush=True),
) -> int:
    """Judge this shard's lines; 0 if every line has a verdict, 1 if some are written as failures.

    Args:
        config: Input, output, shard.
        sandbox: For the code verifier.
        task: Where lines name a ``question_id``: its questions and its verifier.
        announce: Takes progress lines.

    Raises:
        TaskFileError: A line is malformed; begins with ``file:line``. Earlier parts stay.
        ConfigError: The output folder belongs to another input.
    """
    source = Path(config.input)
    if not source.is_file():
        raise TaskFileError(f"{source}:1: there is no such file")
    return asyncio.run(_run(config, sandbox or SandboxConfig(), task, source, announce))


async def _run(
    config: BatchConfig, sandbox: SandboxConfig, task: Task | None, source: Path, announce: Announce
) -> int:
    names = {r.verifier for r in _responses(source, config, task)}  # also checks every line first
    parts = Parts(Path(config.output), config.shard, config.num_shards)
    parts.claim(source, config.part_size)
    pool = PoolConfig(workers=config.workers, wall_limit_s=config.timeout_s)
    tally, told = Tally(), time.monotonic()
    async with LocalVerifiers(frozenset(names), pool, sandbox) as verifies:
        rows = _responses(source, config, task)
        for number in itertools.count():
            chunk = list(itertools.islice(rows, config.part_size))
            if not chunk:
                break
            await _part(number, chunk, parts, verifies, config, tally)
            if time.monotonic() - told >= config.progress_s:
                announce(tally.line(config))
                told = time.monotonic()
    parts.finish({"lines": tally.judged, "successes": tally.success, "failed": tally.failed})
    announce(f"{tally.line(config)}; finished")
    return 1 if tally.failed else 0


async def _part(
    number: int,
    chunk: list[Response],
    parts: Parts,
    verifies: Verifies,
    config: BatchConfig,
    tally: Tally,
) -> None:
    """Judge what an earlier run has not; write the part when anything is new."""
    before = parts.read(number) or []
    kept = {line["id"]: line for line in before if line["verdict"] is not None}
    slots = asyncio.Semaphore(config.workers)

    async def one(response: Response) -> dict[str, Any]:
        if response.id in kept:
            return kept[response.id]
        async with slots:
            return await _judged(response, verifies, config)

    lines = list(await asyncio.gather(*(one(response) for response in chunk)))
    if lines != before:
        parts.write(number, lines)
    tally.resumed += len(kept)
    tally.add(lines)


async def _judged(response: Response, verifies: Verifies, config: BatchConfig) -> dict[str, Any]:
    async def once() -> dict[str, Any]:
        verdict = await verifies.verify(response.verifier, response.item, response.text)
        return verdict_to_json(verdict)

    try:
        verdict = await retried(once, retries=config.retries, timeout_s=config.timeout_s)
    except (VerifierUnavailable, BadItem, VerifierBroken) as error:
        failure = {"kind": type(error).__name__, "message": str(error)}
        return {"id": response.id, "verdict": None, "failure": failure}
    return {"id": response.id, "verdict": verdict, "failure": None}


def _responses(source: Path, config: BatchConfig, task: Task | None) -> Iterator[Response]:
    """This shard's lines. All lines are parsed, so every shard refuses a malformed file."""
    questions = {question.id: question for question in task.questions} if task else {}
    seen: set[str] = set()
    for number, line in enumerate(read_lines(source)):
        response = _response(line, questions, task)
        if response.id in seen:
            line.fail(f"the id {response.id!r} is already used by an earlier line")
        seen.add(response.id)
        if number % config.num_shards == config.shard:
            yield response


def _response(line: Line, questions: Mapping[str, Question], task: Task | None) -> Response:
    text = line.get("response")
    if "item" in line.data or task is None:
        identifier = str(line.get("id", (int, str)))
        return Response(identifier, line.text("verifier"), line.get("item", dict), text)
    name = str(line.get("question_id", (int, str)))
    if name not in questions:
        line.fail(f"the task {task.name} has no question {name!r}")
    identifier = str(line.get("id", (int, str), default=f"{name}#{line.number}"))
    return Response(identifier, task.verifier_name, questions[name].item, text)
