"""The shell scripts of a run's tasks: each writes its configuration to a file beside itself, then
becomes the program.

A file, because Slurm's executor of nemo-run 0.11.1 hands arguments to srun unquoted; and within the
script, because then one text is the whole task, on a laptop as over ssh in a container.
"""

from __future__ import annotations

import re
import shlex

from recipes.slurm_places import ENGINE_URLS, FIRST_PORT
from sdpo_megatron.config import TrainConfig, printed
from sdpo_megatron.errors import ConfigError

_END = "END_OF_CONFIG"
# nemo-run puts the job's folder in the place of this text wherever there is no container.
_REWRITTEN = "/nemo_run"

# srun numbers a step's machines; the launcher asks for torchrun's names (loops/launching/nodes.py).
_SLURM_PLACE = """\
export NNODES="$SLURM_STEP_NUM_NODES" NODE_RANK="$SLURM_NODEID"
"""


def train_script(
    config: TrainConfig, python: str, *, on_slurm: bool = False, engines_apart: bool = False
) -> str:
    """`sdpo train` with `config`.

    Args:
        python: The interpreter, where the script runs.
        on_slurm: Whether srun starts it, on one machine or several.
        engines_apart: Whether engines run in another part of the same Slurm job.

    Raises:
        ConfigError: The configuration holds a text that nemo-run would rewrite.
    """
    words = f'exec {shlex.quote(python)} -m sdpo_megatron.cli train --config "$config"'
    if engines_apart:
        words += f' "rollout.engine.urls=[${ENGINE_URLS}]"'
    return _script(config, words, place=_SLURM_PLACE if on_slurm else "")


def engine_script(config: TrainConfig, python: str, engines_here: int) -> str:
    """`engines_here` engines of `config` on the machine where srun starts it. Raises as
    `train_script`."""
    words = (
        f'exec {shlex.quote(python)} -m recipes.engine_node "$config" '
        f"--engines {engines_here} --first-port {FIRST_PORT}"
    )
    return _script(config, words, place=_SLURM_PLACE)


def _script(config: TrainConfig, command: str, *, place: str) -> str:
    text = printed(config)
    if place and _REWRITTEN in text:
        line = next(line for line in text.splitlines() if _REWRITTEN in line)
        raise ConfigError(
            f"{line.strip()}: nemo-run would put the job's folder in the place of {_REWRITTEN}; "
            "choose another path"
        )
    assert not re.search(f"^{_END}$", text, re.MULTILINE)
    return (
        f"set -euo pipefail\n{place}"
        'config="${0%.sh}.${NODE_RANK:-0}.yaml"\n'
        f"cat > \"$config\" <<'{_END}'\n{text}{_END}\n{command}\n"
    )
