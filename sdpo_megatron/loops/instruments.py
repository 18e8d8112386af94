"""What the loop shows on the board besides a step's metrics."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import time
from pathlib import Path

from sdpo_megatron.actor.runtime import Runtime
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.observability import processes
from sdpo_megatron.observability.board import Board


def describe_run(board: Board, config: TrainConfig, runtime: Runtime) -> None:
    """What runs here, and since when."""
    board.set("sdpo_run_start_timestamp_seconds", time.time())
    model = Path(config.model.path).name
    board.set("sdpo_run_info", 1, run_name=config.run.name, task=config.task.name, model=model)
    board.set(
        "sdpo_build_info",
        1,
        version=_version("sdpo-megatron"),
        commit=os.environ.get("SDPO_GIT_COMMIT", ""),
        torch=_version("torch"),
        megatron_core=_version("megatron-core"),
    )
    device = "cpu" if runtime.is_cpu else runtime.device_name()
    world = config.parallel.model_ranks * config.run.data_parallel
    board.set("sdpo_devices", world, role="trainer", model=device)
    engine = config.rollout.engine
    if not engine.urls:  # of those that somebody else runs, nobody says what they run on
        board.set("sdpo_devices", engine.num_engines * engine.tp, role="engine", model=device)
    board.set("sdpo_memory_limit_bytes", processes.limit_bytes())
    if not runtime.is_cpu:
        board.set("sdpo_device_memory_bytes", runtime.device_memory_bytes())


def show_volume(board: Board, folder: Path) -> None:
    """At each scrape, how much is free where the run folder lies."""

    def look() -> None:
        board.set("sdpo_run_volume_free_bytes", shutil.disk_usage(folder).free)

    board.before_collect(look)


def show_attempt(board: Board, finish: str, tokens: int, reward: float, success: bool) -> None:
    """An attempt that has just been judged."""
    board.add("sdpo_rollout_tokens_total", tokens)
    board.observe("sdpo_attempt_response_tokens", tokens)
    board.observe("sdpo_attempt_reward", reward)
    board.add("sdpo_attempts_total", finish=finish, solved=str(success).lower())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
