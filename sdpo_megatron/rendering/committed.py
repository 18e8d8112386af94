"""The renderings that the repository keeps, below k8s/: the base, and what the overlays patch.

    python -m sdpo_megatron.rendering.committed      writes them anew (make manifests)

A test compares them with what the renderer says.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from sdpo_megatron.rendering.cli import note, rendered
from sdpo_megatron.rendering.manifests import as_folder, write_folder

K8S = Path(__file__).parents[2] / "k8s"
_SMALL = (
    "--cpus-per-rank=1 --memory-gib-per-rank=4 --shm-gib=1 --verifier-workers=1 "
    "--checkpoint-s=30 --runs-gib=20"
)
COMMITTED: Mapping[str, str] = {
    "base": f"k8s experiment=quickstart {_SMALL}",
    "overlays/end-to-end/rendered": "k8s experiment=quickstart "
    "run.name=end-to-end run.steps=5 run.checkpoint_every=1 task.ids=[28,35] batch.questions=2 "
    "rollout.sampling.num_attempts=4 rollout.sampling.max_new_tokens=40 "
    f"rollout.engine.deterministic=true --rollout-workers=1 {_SMALL}",
    "overlays/one-node/rendered": "k8s experiment=science model.path=/models/Qwen3-8B "
    "task.path=/data/sciknoweval task.subset=chemistry parallel.tensor=4 "
    "rollout.engine.num_engines=4",
    "overlays/multi-node/rendered": "k8s experiment=livecodebench model.path=/models/Qwen3-32B "
    "task.path=/data/livecodebench_v6.jsonl parallel.tensor=8 run.data_parallel=4 "
    "rollout.engine.tp=4 rollout.engine.num_engines=4 "
    "--verifiers=16 --verifier-workers=8 --rollout-workers=2 --checkpoint-s=300",
    "overlays/verify-batch/rendered": "k8s-verify-batch --responses=/runs/responses.jsonl "
    "--verdicts=/runs/verdicts --task=humaneval --shards=1000 --parallelism=200",
}
"""Folder below k8s/, and the arguments of `sdpo render` that make it."""


def texts() -> Iterator[tuple[Path, Mapping[str, str]]]:
    """Each folder with the text of its files."""
    for folder, line in COMMITTED.items():
        arguments = shlex.split(line)
        yield K8S / folder, as_folder(rendered(arguments), note(arguments))


if __name__ == "__main__":
    for folder, files in texts():
        write_folder(files, folder)
