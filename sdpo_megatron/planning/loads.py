"""How busy each resource is in a step, which one gives out first, and what to change about it.

A resource's load is the seconds that a step's work keeps it busy, whatever the others do. With
rollouts that run ahead, a step cannot be shorter than the largest load, nor than training and
publishing together; without, rollout, training and publishing follow one another.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdpo_megatron.planning.phases import Model


@dataclass(frozen=True, kw_only=True)
class Load:
    """One resource.

    Attributes:
        name: Of the resource.
        seconds: That a step's work keeps it busy.
        change: What makes it fewer.
    """

    name: str
    seconds: float
    change: str


def loads(model: Model, max_staleness: int = 0) -> list[Load]:
    """Of all resources, the busiest first; an attempt may span `max_staleness` + 1 steps."""
    work, cluster, speeds = model.work, model.cluster, model.speeds
    run = model.config.run
    every = run.checkpoint_every or 1
    found = [
        Load(
            name="trainer GPUs",
            seconds=model.train_s(),
            change="more trainer nodes, or fewer questions a batch; see which phase is largest",
        ),
        Load(
            name="engines",
            seconds=_decode_s(model),
            change="more engine_nodes, a larger KV cache (rollout.engine.tp), fewer or shorter "
            "attempts",
        ),
        Load(
            name="the longest attempt",
            seconds=_longest_s(model) / (max_staleness + 1),
            change="a larger max_staleness lets it span more steps; else lower "
            "rollout.sampling.max_new_tokens, or raise rollout.engine.tp",
        ),
        Load(
            name="verifiers",
            seconds=model.judge_work() / cluster.judges,
            change="more judge.workers, or verifier services (judge.endpoints)",
        ),
        Load(
            name="rollout workers (Python)",
            seconds=model.python_s(),
            change="more workers: fewer engines each",
        ),
        Load(
            name="planning (one process)",
            seconds=speeds.plan_us * 1e-6 * work.response_tokens,
            change="fewer, longer attempts",
        ),
        Load(
            name="publishing",
            seconds=model.publish().seconds,
            change="transport=distributed instead of disk; more pipeline stages send at once",
        ),
        Load(
            name="checkpoint storage",
            seconds=model.checkpoint_write_s() / every,
            change="a larger run.checkpoint_every, or faster storage",
        ),
    ]
    return sorted(found, key=lambda load: -load.seconds)


def synchronous_s(model: Model) -> float:
    """Seconds of a step in which every phase waits for the one before."""
    return sum(phase.seconds for phase in model.phases()) + model.speeds.step_s


def _decode_s(model: Model) -> float:
    """Of an engine's share of the tokens, with as many requests at once as its slots hold."""
    work, cluster, speeds = model.work, model.cluster, model.speeds
    context = work.prompt + work.lengths.expected() / 2
    running = cluster.slots
    iteration = speeds.iteration_s + running * (speeds.sequence_s + context * speeds.context_s)
    tokens = work.response_tokens / cluster.engines
    return tokens / running * iteration + model.prefill_s()


def _longest_s(model: Model) -> float:
    """Of the longest attempt alone on an engine."""
    work, speeds = model.work, model.speeds
    longest = work.lengths.longest(work.attempts)
    context = work.prompt + longest / 2
    return longest * (speeds.iteration_s + speeds.sequence_s + context * speeds.context_s)


def goodput(
    model: Model, *, max_staleness: int = 0, machine_mtbf_h: float, restart_s: float
) -> float:
    """Share of the time that is not lost to machines that fail.

    A failure anywhere among the trainer's machines costs half the interval between checkpoints, on
    average, and a restart with a load. Engines that fail cost their own share alone.
    """
    step = max(load.seconds for load in loads(model, max_staleness))
    every = model.config.run.checkpoint_every or 1
    failures_s = machine_mtbf_h * 3600 / model.cluster.nodes
    lost = every * step / 2 + restart_s + model.checkpoint_load_s()
    return failures_s / (failures_s + lost)
