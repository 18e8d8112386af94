"""The engines of one machine beside a trainer on others: ``python -m recipes.engine_node FILE``.

Flags and environment are those of serving/command.py. Each engine gets `rollout.engine.tp` GPUs of
its own. When one ends, all do, and the exit code is not 0: a scheduler then ends the run instead of
letting it wait. After SIGTERM, which a scheduler sends to all of a job at once, they serve on for a
while: the trainer has a step to end.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from sdpo_megatron.config import TrainConfig, load_saved
from sdpo_megatron.errors import SdpoError
from sdpo_megatron.exit_codes import DONE, FAILED
from serving.command import resolve_device
from serving.config import EngineConfig
from serving.launch import EngineProcess

_POLL_S = 1.0
LINGER_S = 600.0
"""Seconds after SIGTERM."""


def main(arguments: Sequence[str]) -> int:
    """Start them and wait; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recipes.engine_node", description=__doc__)
    parser.add_argument("config", type=Path, help="a whole configuration, as sdpo config prints it")
    parser.add_argument("--engines", type=int, required=True, help="engines on this machine")
    parser.add_argument("--first-port", type=int, required=True, help="of the first; they count up")
    parsed = parser.parse_args(arguments)
    try:
        config = load_saved(parsed.config)
        return _serve(config, parsed.config.parent / "engines", parsed.engines, parsed.first_port)
    except SdpoError as error:
        print(f"sdpo: {error}", file=sys.stderr)
        return error.exit_code


def engine_configs(config: EngineConfig, engines: int, first_port: int) -> list[EngineConfig]:
    """The configuration of each engine here: all interfaces, its port, its GPUs."""
    on_gpus, tp = resolve_device(config) == "cuda", config.tp
    configs = []
    for index in range(engines):
        gpus = tuple(range(index * tp, (index + 1) * tp)) if on_gpus else ()
        one = replace(config, host="0.0.0.0", num_engines=1, urls=(), gpus=gpus)
        configs.append(replace(one, port=first_port + index))
    return configs


def _serve(config: TrainConfig, logs: Path, engines: int, first_port: int) -> int:
    processes = [
        EngineProcess(one, config.model.path, logs / f"{index}", seed=config.run.seed + index)
        for index, one in enumerate(engine_configs(config.rollout.engine, engines, first_port))
    ]
    end = math.inf

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal end
        end = min(end, time.monotonic() + LINGER_S)
        _say(f"asked to stop: serving the trainer for {LINGER_S:g} s more at most")

    signal.signal(signal.SIGTERM, stop)  # before they start: a machine can be slow to get there
    try:
        for process in processes:
            process.launch(_say)
        for process in processes:
            process.wait_ready(_say)
            _say(f"{process.url} is ready")
        while time.monotonic() < end:
            time.sleep(_POLL_S)
            if dead := [process for process in processes if not process.alive]:
                _say(f"an engine has ended: {dead[0].log_file}")
                return FAILED
        return DONE
    finally:
        for process in processes:
            process.close()


def _say(said: str) -> None:
    print(f"sdpo: {said}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
