"""Tasks: what a question is.

Reads public data layouts into `Question`s and says which verifier judges them.

    config      TaskConfig
    task        Task, load_task, the registry of layouts
    lines       JSON Lines with errors that begin with file:line
    humaneval, livecodebench, sciknoweval, toolalpaca, gsm8k, ifeval    one layout a file
    hidden_api  a layout with its generator
    data        small sets whose licences allow it, and own items of the same layouts

May import: verifiers, nouns, errors. Is imported by: loops, recipes.
"""

from sdpo_megatron.tasks.config import TaskConfig
from sdpo_megatron.tasks.task import Task, load_task

__all__ = ["Task", "TaskConfig", "load_task"]
