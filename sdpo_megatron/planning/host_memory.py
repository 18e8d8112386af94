"""What a trainer's machine holds in host memory, line by line."""

from __future__ import annotations

from sdpo_megatron.planning.hardware import GIB
from sdpo_megatron.planning.memory import scoring_passes
from sdpo_megatron.planning.phases import Model
from sdpo_megatron.planning.sheet import Line

_PROCESS = 4 * GIB
"""A rank's process: libraries, CUDA's host side, pinned buffers."""
_SAMPLE_BYTES = 13
"""A token of a sample as flat arrays: ids, mask, log-probs."""


def host_lines(model: Model) -> list[Line]:
    """Of one machine of the trainer."""
    here, cluster, work = model.cluster.ranks_per_node, model.cluster, model.work
    share = model.state_bytes() / cluster.ranks
    copies = round(share * here) if model.config.run.checkpoint_in_background else 0
    tokens = (work.prompt + work.teacher_prompt + work.lengths.expected()) * work.attempts
    samples = _SAMPLE_BYTES * tokens / cluster.data_parallel
    lines = [
        Line(name="rank processes", sum=f"{here} x 4 GiB", bytes=here * _PROCESS),
        Line(
            name="copy of a checkpoint",
            sum=f"{here} ranks x {share / 1e9:.2f} GB while it is written",
            bytes=copies,
        ),
        Line(
            name="samples",
            sum=f"{here} ranks x {_SAMPLE_BYTES} B x {tokens / cluster.data_parallel:,.0f} tokens",
            bytes=round(samples * here),
        ),
    ]
    if model.config.teacher.keep_hidden_on_host:
        passes, hidden = scoring_passes(model.config), 2 * model.spec.hidden
        kept = passes * work.response_tokens * hidden / cluster.data_parallel
        shared = cluster.parallel.tensor * cluster.parallel.context
        stages = cluster.parallel.pipeline  # the last one keeps them
        lines.append(
            Line(
                name="teacher's hidden states",
                sum=f"{kept / shared / 1e9:.2f} GB a rank of the last stage",
                bytes=round(kept / shared * max(1, here // stages)),
            )
        )
    return lines
