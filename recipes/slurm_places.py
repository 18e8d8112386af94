"""What a Slurm job finds out about its machines before it starts its tasks: where the trainer's
ranks meet, and where the engines are."""

from __future__ import annotations

ENGINE_URLS = "SDPO_ENGINE_URLS"
"""Environment variable: the engines' URLs, separated by commas."""
FIRST_PORT = 30000
"""Of the first engine on a machine; the others count up."""

# nemo-run's batch file asks for unbuffered output, for which srun gives each task a terminal: the
# run would draw its live display into the log.
_PLAIN_LOG = "unset SLURM_UNBUFFEREDIO\n"

# The trainer is the first part of a heterogeneous job, or all of a plain one. Two ports from
# MASTER_PORT on (loops/launching/nodes.py), below those that the system gives out by itself, and
# not those of another job.
_MASTER = """\
nodes_of_trainer="${SLURM_JOB_NODELIST_HET_GROUP_0:-$SLURM_JOB_NODELIST}"
export MASTER_ADDR="$(scontrol show hostnames "$nodes_of_trainer" | head -n 1)"
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 6000 * 2))
"""


def setup_lines(engines_a_machine: int = 0) -> str:
    """Lines of the batch script.

    Args:
        engines_a_machine: Engines on each machine of the job's second part; 0: it has one part.
    """
    common = _PLAIN_LOG + _MASTER
    if not engines_a_machine:
        return common
    ports = " ".join(str(FIRST_PORT + index) for index in range(engines_a_machine))
    return common + (
        "urls=()\n"
        'for host in $(scontrol show hostnames "$SLURM_JOB_NODELIST_HET_GROUP_1"); do\n'
        f'    for port in {ports}; do urls+=("http://$host:$port"); done\n'
        "done\n"
        f'export {ENGINE_URLS}="$(IFS=,; echo "${{urls[*]}}")"\n'
    )
