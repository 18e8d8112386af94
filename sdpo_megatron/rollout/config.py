"""Settings of the rollout: sampling, what the teacher is told, the engines."""

from __future__ import annotations

import ipaddress
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from sdpo_megatron.fields import (
    Count,
    NonNegative,
    Port,
    PositiveInt,
    Seconds,
    Text,
    Texts,
    Word,
    refuse,
    settings,
)
from serving.config import EngineConfig

TEMPLATE = "{prompt}{solution}{feedback}\n\nCorrectly solve the original question."
SOLUTION = "\nCorrect solution:\n\n{successful_attempt}\n"
FEEDBACK = "\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback}\n"


@settings
class SamplingConfig:
    """How attempts are sampled."""

    num_attempts: PositiveInt = 8
    """Attempts at each question: the group size."""

    temperature: NonNegative = 1.0
    """Sampling temperature; student and teacher are compared at the same."""

    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus mass. Below 1, rollout log-probs are not renormalised to it: keep 1.0 in training."""

    max_prompt_tokens: PositiveInt = 2048
    """Longest prompt, tokens; questions with a longer one are left out and counted."""

    max_new_tokens: PositiveInt = 1024
    """Longest response, tokens; a response cut there has finish_reason "length"."""

    concurrency: PositiveInt | None = None
    """Requests in flight over all engines, of each rollout worker. null: as many as they decode at
    once together, 256 each where `engine.max_running_requests` does not say."""

    retries: Count = 2
    """Further tries of one attempt after an engine error.

    Deaths of engines do not count: the pool sends again.
    """

    seed: Count = 0
    """Seed of the run. With `rollout.engine.deterministic`, each attempt's seed follows from it,
    the step, the question and the attempt's index."""

    thinking: bool = False
    """Passed to chat templates that know `enable_thinking`."""


@settings
class TeacherPromptConfig:
    """What the teacher is told about an attempt."""

    template: Text = TEMPLATE
    """The last user message; {prompt} is its original text, {solution} and {feedback} the two
    below, or nothing."""

    solution_template: Text = SOLUTION
    """{successful_attempt} is the sibling's turn."""

    feedback_template: Text = FEEDBACK
    """{feedback} is the environment's text for this very attempt."""

    use_solutions: bool = True
    """Show a successful sibling."""

    use_own_success: bool = False
    """An attempt that succeeded may be its own demonstration."""

    solution_choice: Literal["first", "rotate"] = "first"
    """Which of several successful siblings: the first by index, or in turn (attempt i takes the
    i-th of them, cyclically)."""

    feedback_when: Literal["no_solution", "always", "never"] = "no_solution"
    """When feedback is shown; no_solution: only when no sibling can be shown."""

    remove_thinking: bool = True
    """Cut <think>...</think> out of demonstrations."""

    max_prompt_tokens: PositiveInt = 3072
    """Limit of the teacher's prompt. Beyond it first the feedback, then the solution is shortened,
    from its end."""

    def __post_init__(self) -> None:
        problems = []
        if not self.use_solutions and self.feedback_when == "never":
            problems.append(
                (
                    "use_solutions",
                    "with {feedback_when} no attempt would have a teacher: turn one of them on",
                )
            )
        for name, needed in (
            ("template", ("prompt", "solution", "feedback")),
            ("solution_template", ("successful_attempt",)),
            ("feedback_template", ("feedback",)),
        ):
            missing = [word for word in needed if f"{{{word}}}" not in getattr(self, name)]
            if missing:
                problems.append((name, "lacks " + ", ".join(f"{{{{{w}}}}}" for w in missing)))
        refuse(self, problems)


@settings
class ValidationConfig:
    """When the policy is validated, on which questions, and how its attempts are sampled."""

    every: Count = 0
    """Rollout batches between validations; the last batch is followed by one as well. 0: none."""

    before_training: bool = True
    """Validate the model that training starts from, too."""

    path: Word | None = None
    """Where the questions are, as `task.path`. null: there."""

    split: Word | None = "test"
    """The held-out file of a folder: train or test. null: the training questions themselves."""

    ids: Texts = ()
    """Only these questions of `split`, in this order. Empty: all."""

    limit: PositiveInt | None = None
    """At most this many questions. null: all."""

    num_attempts: PositiveInt = 16
    """Attempts at each question."""

    temperature: NonNegative = 0.6
    """Sampling temperature."""

    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Nucleus mass."""


def _ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


WAITING, WORKING = "waiting", "working"
"""What `sdpo worker --state FILE` writes, for whoever probes it."""


@settings
class WorkerConfig:
    """The processes that sample, judge and write groups."""

    count: Count = 1
    """Rollout workers that rank 0 starts. Each has verifiers of its own (`judge.workers`). 0: only
    others' take part, see `listen_address`."""

    listen_address: Text = ""
    """Address of rank 0 at which workers of other machines may join, 0.0.0.0 for all that it has;
    there, `sdpo worker RUN_FOLDER` finds it by the run folder, which they must share. "": none."""

    listen_port: Port = 0
    """Port for them; 0 picks a free one."""

    lease_timeout_s: Seconds = 7200.0
    """Seconds after which a group that its worker has not finished is given out again. It must
    exceed the longest attempt, its judging and its wait for an engine."""

    silence_timeout_s: Seconds = 120.0
    """A worker without a sign of life for so long (stopped, or stuck) is restarted."""

    max_restarts: Count = 3
    """Restarts of one worker within a run before its death is an error; of those of other machines,
    failures in a row without a group in between."""

    start_timeout_s: Seconds = 300.0
    """Longest start-up, verifiers included; with `count`=0 also the longest time without anybody's
    worker."""

    stop_timeout_s: Seconds = 5.0
    """Seconds between SIGTERM and SIGKILL when a worker is stopped."""

    def __post_init__(self) -> None:
        problems = []
        if not self.count and not self.listen_address:
            problems.append(("count", "with no {listen_address:key} leaves nobody: start one"))
        if self.listen_address and _ip_address(self.listen_address) is None:
            problems.append(("listen_address", "must be an IP address of rank 0's, or 0.0.0.0"))
        refuse(self, problems)

    @property
    def others_are_elsewhere(self) -> bool:
        """Workers may join that are not on rank 0's machine."""
        address = _ip_address(self.listen_address)
        return address is not None and not address.is_loopback


@settings
class RolloutConfig:
    """How attempts are sampled, from which engines, and how the teacher is prompted about them."""

    max_staleness: Count = 0
    """Policy versions that an attempt's oldest token may be behind the weights that train on it.
    Generation runs ahead of training by as many rollout batches; what has become older is dropped
    and counted. 0: every attempt comes from the very weights that it trains."""

    max_replaced: Count = 0
    """Groups that teach nothing (no teacher's prompt, no advantage) which are replaced by other
    questions, at most so many in a rollout batch. 0: they take their place in it."""

    workers: WorkerConfig = field(default_factory=WorkerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    teacher_prompt: TeacherPromptConfig = field(default_factory=TeacherPromptConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
