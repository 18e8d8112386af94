"""Hold-out benchmarks by lm-evaluation-harness, which asks the engines over their OpenAI endpoint.

The harness is a command of its own with its own data sets; what it is told is printed, so that it
can be run by hand.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from sdpo_megatron.errors import ConfigError

__all__ = ["harness_command", "run_harness"]

_TAIL_LINES = 12
_UNREACHED = ("MaxRetryError", "ConnectionError", "OfflineMode", "Couldn't reach", "LocalEntryNot")


def harness_command(
    url: str, model: str, benchmarks: Sequence[str], output: Path, concurrency: int, more: str = ""
) -> list[str]:
    """The command line.

    Args:
        url: Of an engine, without a path.
        model: Name that the requests bear.
        benchmarks: The harness's names of tasks, e.g. ifeval, mmlu_pro.
        output: Folder of its results.
        concurrency: Requests in flight.
        more: Further arguments, as in a shell.
    """
    arguments = {
        "model": model,
        "base_url": f"{url}/v1/chat/completions",
        "num_concurrent": concurrency,
        "max_retries": 3,
        "tokenized_requests": False,
    }
    told = ",".join(f"{key}={value}" for key, value in arguments.items())
    return [
        *("lm_eval", "--model", "local-chat-completions", "--model_args", told),
        *("--tasks", ",".join(benchmarks), "--apply_chat_template"),
        *("--output_path", str(output), "--log_samples", *shlex.split(more)),
    ]


def check_harness() -> None:
    """Before an engine is started.

    Raises:
        ConfigError: The harness is not installed.
    """
    if shutil.which("lm_eval") is None:
        raise ConfigError(
            "--benchmarks needs lm-evaluation-harness, and there is no command lm_eval: "
            "pip install 'sdpo-megatron[harness]'"
        )


def run_harness(command: Sequence[str], log: Path, say: Callable[[str], None]) -> None:
    """Run it to its end; its output goes to `log`.

    Raises:
        ConfigError: It failed; the message has the end of its output, and says so where its data
            sets could not be fetched.
    """
    say(f"running {shlex.join(command)}")
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    environment.setdefault("OPENAI_API_KEY", "none")  # the engines ask for none
    with log.open("wb") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    if done.returncode == 0:
        return
    text = log.read_text(encoding="utf-8", errors="replace")
    why = f"lm_eval ended with {done.returncode}"
    if any(word in text for word in _UNREACHED):
        why += (
            ": it could not fetch its data sets. They come from huggingface.co, which must be "
            "reachable, or be in the cache already (HF_HOME)"
        )
    tail = "\n".join(text.splitlines()[-_TAIL_LINES:])
    raise ConfigError(f"{why}. The end of {log}:\n{tail}")
