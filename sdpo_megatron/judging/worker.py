"""The child process of `pool`: reads one job a line from standard input, writes one verdict a line.

Started clean (a new interpreter, nothing inherited but the module path), so it holds no secrets and
no weights. Its limits are its own: memory by RLIMIT_AS, CPU time of one job by RLIMIT_CPU, which
the kernel enforces even inside a C loop that no Python signal handler would interrupt. Whoever
reads the pipe learns of a killed job by its closing.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any, TextIO

from sdpo_megatron.errors import SdpoError
from sdpo_megatron.judging.wire import verdict_to_json
from sdpo_megatron.verifiers.base import BadItem, load_verifier

MEBIBYTE = 2**20


def main() -> None:
    """``python -m sdpo_megatron.judging.worker CPU_LIMIT_S MEMORY_MIB``: serve jobs until
    standard input closes."""
    cpu_limit_s, memory_mib = int(sys.argv[1]), int(sys.argv[2])
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # a verifier that prints must not write into the replies
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib * MEBIBYTE, memory_mib * MEBIBYTE))
    for line in sys.stdin:
        _serve(json.loads(line), cpu_limit_s, replies)


def _serve(job: dict[str, Any], cpu_limit_s: int, replies: TextIO) -> None:
    try:
        # outside the limit: imports are no answer's fault
        verifier = load_verifier(job["verifier"])
        _limit_cpu(cpu_limit_s)
        verdict = verifier.verify(job["item"], job["response"])
        line = json.dumps({"verdict": verdict_to_json(verdict)}, allow_nan=False)
    except BadItem as error:
        line = _error("bad_item", str(error))
    except SdpoError as error:
        line = _error("config", str(error))
    except MemoryError:
        line = _error("memory", "out of memory")
    except Exception as error:  # a broken verifier, not a broken answer: the caller must hear of it
        line = _error("raised", f"{type(error).__name__}: {error}"[:500])
    _limit_cpu(None)
    replies.write(line + "\n")
    replies.flush()


def _error(kind: str, message: str) -> str:
    return json.dumps({"error": kind, "message": message})


def _limit_cpu(seconds: int | None) -> None:
    """Allow this process `seconds` more of CPU time; beyond it the kernel ends it by SIGXCPU."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if seconds is None:
        resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(
        resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
    )


if __name__ == "__main__":
    main()
