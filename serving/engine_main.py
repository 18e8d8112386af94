"""The engine process: SGLang's HTTP server, made to run on a CPU when asked to.

    python -m serving.engine_main --model-path ... (the flags of `sglang.launch_server`)

SGLang starts its scheduler and detokenizer with multiprocessing. A spawned child imports the
parent's main module first, so what this module does at import is done in every process of the
engine, before SGLang is imported there. On a CPU they are forked instead.

Environment:
    SDPO_ENGINE_STAND_INS: "1" puts `serving/stand_ins` first on the path (CPU only; see that
        folder).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

STAND_INS_VARIABLE = "SDPO_ENGINE_STAND_INS"


def use_stand_ins() -> None:
    """Make the CPU stand-ins importable in this process and adjust SGLang; in spawned children the
    path is there already."""
    folder = str(Path(__file__).parent / "stand_ins")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import cpu_patches

    cpu_patches.apply()


def fork_children() -> None:
    """Make SGLang fork its processes, where it would spawn them: they then need not import it once
    more, which is half of the start-up on a CPU. (CUDA does not survive a fork.)

    A thread does not survive one either: with a second one running they are spawned after all.
    """
    import multiprocessing

    choose = multiprocessing.set_start_method

    def set_start_method(method: str | None, force: bool = False) -> None:
        alone = len(os.listdir("/proc/self/task")) == 1
        choose("fork" if method == "spawn" and alone else method, force)

    multiprocessing.set_start_method = set_start_method


# In the engine's processes, not for whoever imports the name above.
if __name__ in ("__main__", "__mp_main__"):
    # SGLang's debug dumper imports Megatron where it can: seconds and memory, in each process, for
    # nothing. None: importing it is an ImportError.
    sys.modules.setdefault("megatron", None)  # type: ignore[arg-type]

on_cpu = os.environ.get(STAND_INS_VARIABLE) == "1"
if on_cpu:
    use_stand_ins()

if __name__ == "__main__":
    if on_cpu:
        fork_children()
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args

    load_plugins()
    run_server(prepare_server_args(sys.argv[1:]))
