"""Checkpoints: every rank writes and reads its own shards, and training goes on meanwhile.

What is in one: the fp32 master weights, both Adam moments and the teacher's weight sets, each keyed
``{set}.{parameter}`` by Megatron's own sharding metadata, so another TP x PP x DP layout can load
it; and a common part with counters, random state, data position and policy version. The live
parameters are not in it: they are the master weights rounded to the compute dtype.

    checkpoints/step-000012/            torch.distributed.checkpoint: one file a rank and an index
    checkpoints/step-000012/complete.json   names and sizes of all files; written last

A folder without a matching complete.json is torn and never chosen. Writing goes to a ``.tmp``
folder that is renamed.

    pieces    which rectangles of the global tensors a rank's shards are
    folder    names, wholeness, space
    writing   copies the shards, writes them in a thread, commits when all ranks have written
    reading   loads what this rank needs, from whatever layout wrote it
"""

from sdpo_megatron.actor.checkpoint.folder import checkpoint_folder, is_whole, whole_checkpoints
from sdpo_megatron.actor.checkpoint.reading import load, load_parameters
from sdpo_megatron.actor.checkpoint.writing import CheckpointWriter, Saved

__all__ = [
    "CheckpointWriter",
    "Saved",
    "checkpoint_folder",
    "is_whole",
    "load",
    "load_parameters",
    "whole_checkpoints",
]
