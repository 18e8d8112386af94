"""TaskConfig: which questions, in which layout, and how they are asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sdpo_megatron.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One task. Checked on construction; a missing file or id is found by `load_task`."""

    name: str = "humaneval"
    """Layout of the data, by name or as module:function.

    Names: humaneval, livecodebench, sciknoweval, toolalpaca, gsm8k, ifeval.
    """

    path: str | None = None
    """A .jsonl or .jsonl.gz file, or a folder of ``[subset/]split.jsonl``. None: the items that
    come with the package."""

    subset: str | None = None
    """Part of a set with parts, e.g. sciknoweval's chemistry. None: the first, or the whole set."""

    split: str = "train"
    """File of a folder: train or test. Ignored when `path` is a file."""

    ids: tuple[str, ...] = ()
    """Only these questions, in this order; ``28`` means ``HumanEval/28``. Empty: all."""

    limit: int | None = None
    """At most this many questions, counted after `ids`. None: no limit."""

    public_fraction: float = 0.5
    """Share of a question's tests that feedback may quote; the rest is hidden. In [0, 1]; the paper
    uses a half."""

    split_seed: int = 0
    """Seed of the public and hidden split; together with the question's id it decides alone."""

    instruction: str | None = None
    """Replaces the layout's own instruction text in the prompt. None: the layout's."""

    prefill: Literal["fence", "signature", "none"] = "fence"
    """How the assistant's turn is opened in code tasks: a code fence; the fence and the code up to
    the end of the signature (it never ends inside a line break: the break belongs to the model's
    first token); or nothing."""

    feedback_may_reveal_answer: bool = False
    """Whether feedback may contain the expected answer. It leaks ground truth into the teacher;
    verdicts then say so."""

    verifier: str | None = None
    """Another verifier than the layout's own: a name or module:Class. None: the layout's."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: A value cannot work.
        """
        object.__setattr__(self, "ids", tuple(str(i) for i in self.ids))  # YAML gives 28 and lists
        if not 0.0 <= self.public_fraction <= 1.0:
            raise ConfigError(
                f"task.public_fraction: expected a share in [0, 1], got {self.public_fraction}"
            )
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"task.limit: expected at least 1, or null for all, got {self.limit}")
        if self.prefill not in ("fence", "signature", "none"):
            raise ConfigError(
                f"task.prefill: expected fence, signature or none, got {self.prefill!r}"
            )
        if len(set(self.ids)) != len(self.ids):
            raise ConfigError(f"task.ids: an id is given twice in {list(self.ids)}")
