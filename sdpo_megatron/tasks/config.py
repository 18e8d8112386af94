"""TaskConfig: which questions, in which layout, and how they are asked."""

from __future__ import annotations

from typing import Literal

from sdpo_megatron.fields import Count, Fraction, PositiveInt, Text, Texts, Word, refuse, settings

PACKAGED_IN_SPLITS = frozenset({"hidden_api"})
"""Layouts whose items that come with the package are in a file each of train and test."""


@settings
class TaskConfig:
    """One task. Checked on construction; a missing file or id is found by `load_task`."""

    name: Word = "humaneval"
    """Layout of the data, by name or as module:function.

    Names: humaneval, livecodebench, sciknoweval, toolalpaca, gsm8k, ifeval, hidden_api.
    """

    path: Text | None = None
    """A .jsonl or .jsonl.gz file, or a folder of ``[subset/]split.jsonl``. None: the items that
    come with the package. Empty: must be given, as in the paper's recipes."""

    subset: Word | None = None
    """Part of a set with parts, e.g. sciknoweval's chemistry. None: the first, or the whole set."""

    split: Word = "train"
    """File of a folder: train or test. Ignored when `path` is a file."""

    ids: Texts = ()
    """Only these questions, in this order; ``28`` means ``HumanEval/28``. Empty: all."""

    limit: PositiveInt | None = None
    """At most this many questions, counted after `ids`. None: no limit."""

    public_fraction: Fraction = 0.5
    """Share of a question's tests that feedback may quote; the rest is hidden. The paper uses a
    half."""

    hidden_tests: bool = True
    """Whether the hidden tests decide with the public ones. false: an attempt is solved when it
    passes the public ones, as in the paper's training; validation asks for all in any case."""

    split_seed: Count = 0
    """Seed of the public and hidden split; together with the question's id it decides alone."""

    instruction: Text | None = None
    """Replaces the layout's own instruction text in the prompt. None: the layout's."""

    prefill: Literal["fence", "signature", "none"] = "fence"
    """How the assistant's turn is opened in code tasks: a code fence; the fence and the code up to
    the end of the signature (it never ends inside a line break: the break belongs to the model's
    first token); or nothing."""

    tool: Literal["none", "python"] = "none"
    """What the model may call before it answers. python: code in `<tool_call>`, run in the sandbox;
    what it prints is the next turn. Tool turns are attended to, never trained on, and count against
    `rollout.sampling.max_new_tokens`."""

    max_turns: PositiveInt = 4
    """Turns of the model's in an attempt, at most. Does nothing without `tool`."""

    feedback_may_reveal_answer: bool = False
    """Whether feedback may contain the expected answer. It leaks ground truth into the teacher;
    verdicts then say so."""

    verifier: Word | None = None
    """Another verifier than the layout's own: a name or module:Class. None: the layout's."""

    def __post_init__(self) -> None:
        if twice := sorted({i for i in self.ids if self.ids.count(i) > 1}):
            refuse(self, [("ids", f"given twice: {', '.join(twice)}")])
