"""The configuration of a run: hydra composes YAML groups over dataclasses beside each component.

    run         TrainConfig, what a run needs to know beside the actor's groups
    budgets     token budgets that contradict each other
    composing   from hydra overrides to a checked config
    saved       a run's config.yaml: written, read, changed for a resumed run
    page        docs/settings.md

    sdpo train experiment=quickstart run.steps=8 teacher.rate=0.1

Everything is checked before any process starts, and nothing here imports torch. May import: the
config.py of every folder, fields, errors. Is imported by: loops, the command line.
"""

from sdpo_megatron.config.composing import CONF, compose, load
from sdpo_megatron.config.run import ModelConfig, RunConfig, TrainConfig
from sdpo_megatron.config.saved import load_resumed, load_saved, printed, save

__all__ = [
    "CONF",
    "ModelConfig",
    "RunConfig",
    "TrainConfig",
    "compose",
    "load",
    "load_resumed",
    "load_saved",
    "printed",
    "save",
]
