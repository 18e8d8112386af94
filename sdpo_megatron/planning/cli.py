"""``sdpo plan experiment=... nodes=... [gpu=h100]``: what a run will need, before it is started."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sdpo_megatron.exit_codes import DONE
from sdpo_megatron.planning.calibration import Measured, calibrated, compared
from sdpo_megatron.planning.division import best_division, step_bound_s
from sdpo_megatron.planning.hardware import GIB
from sdpo_megatron.planning.host_memory import host_lines
from sdpo_megatron.planning.loads import goodput, loads, synchronous_s
from sdpo_megatron.planning.phases import Model
from sdpo_megatron.planning.request import Request
from sdpo_megatron.planning.sheet import Sheet
from sdpo_megatron.planning.simulation.run import Outcome, Simulation
from sdpo_megatron.planning.speeds import FAST, Speeds

_RESTART_S = 300.0
"""From a failed machine to a trainer that loads: noticing, a new pod, imports, NCCL."""
_EPILOG = """\
keys of the plan (all others are settings of the run):
  gpu=h100 nodes=4 engine_nodes=4        machines; engine_nodes=0: engines share the only one
  shape=qwen3-8b                         a model by its size, without its folder
  prompt= teacher_prompt= response=      tokens, on average; spread= of responses, taught= share
  transport=disk|distributed|tensor      of weights to the engines
  max_staleness=0 sim_steps=8            of the simulation; sim_steps=0: none
  judges=  mtbf_h=20000                  verdicts at once; hours between failures of a machine
  speeds=FILE                            measured speeds instead of the data sheet's
  calibrate=RUN speeds=FILE              measure them from a run folder
  check=RUN speeds=FILE                  predict a run's phases, and show what was measured

examples:
  sdpo plan experiment=science shape=qwen3-8b nodes=1 engine_nodes=1 response=2000 prompt=300
  sdpo plan calibrate=runs/short speeds=here.json prompt=150 teacher_prompt=230
  sdpo plan experiment=quickstart speeds=here.json prompt=150 teacher_prompt=230 response=40
"""


def main(arguments: Sequence[str]) -> int:
    """Print the plan; the exit code."""
    parser = argparse.ArgumentParser(
        prog="sdpo plan",
        description="Predict memory, seconds by phase and what gives out first; start nothing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("keys", nargs="*", help="key=value, see below")
    request = Request.read(parser.parse_args(arguments).keys)
    if request.calibrate:
        _calibrate(request)
    elif request.check:
        _check(request)
    else:
        model, sheet = request.plan()
        print(render(model, sheet, request))
    return DONE


def render(model: Model, sheet: Sheet | None, request: Request) -> str:
    """The whole plan as text."""
    parts = [
        _what(model),
        _memory(model, sheet),
        _phases(model),
        _loads(model, request.max_staleness),
    ]
    here, best = step_bound_s(model, request.max_staleness), best_division(request)
    if best and best.step_s < 0.95 * here:
        parts.append(
            f"The same machines as nodes={best.nodes} engine_nodes={best.engine_nodes}: "
            f"{best.step_s:.1f} s a step at least, where this division takes {here:.1f} s."
        )
    if request.sim_steps:
        outcome = Simulation(
            model, max_staleness=request.max_staleness, steps=request.sim_steps
        ).run()
        parts.append(_simulated(outcome, request.max_staleness))
    kept = goodput(
        model,
        max_staleness=request.max_staleness,
        machine_mtbf_h=request.mtbf_h,
        restart_s=_RESTART_S,
    )
    parts.append(
        f"Failures: with {request.mtbf_h:,.0f} h between those of a machine, {kept:.1%} of the "
        "time is kept."
    )
    return "\n\n".join(parts)


def _what(model: Model) -> str:
    cluster, work = model.cluster, model.work
    return (
        f"{model.spec.model_type}, {cluster.ranks} trainer ranks on {cluster.nodes} machines, "
        f"{cluster.engines} engines of {cluster.engine_tp}; speeds: {model.speeds.title}\n"
        f"{work.questions} questions x {work.num_attempts} attempts, prompts of {work.prompt:,.0f} "
        f"and {work.teacher_prompt:,.0f} tokens, responses of {work.lengths.expected():,.0f} on "
        f"average, {work.lengths.longest(work.attempts):,.0f} the longest"
    )


def _memory(model: Model, sheet: Sheet | None) -> str:
    lines = host_lines(model)
    total = sum(line.bytes for line in lines)
    host = [f"  {line.name:<26}{line.bytes / GIB:9.2f} GiB  {line.sum}" for line in lines]
    text = "\n".join(
        ["Host memory of a trainer's machine", *host, f"  {'total':<26}{total / GIB:9.2f} GiB"]
    )
    if sheet is None:
        return text
    fits = "fits" if sheet.fits else "DOES NOT FIT: more nodes, or shorter responses"
    return f"Memory of the fullest rank ({fits})\n{sheet}\n\n{text}"


def _phases(model: Model) -> str:
    rows = [f"  {p.name:<12}{p.seconds:10.2f} s  {p.sum}" for p in model.phases()]
    return "\n".join(
        [
            "Seconds of a step in which each phase waits for the one before",
            *rows,
            f"  {'step':<12}{synchronous_s(model):10.2f} s",
            f"  a checkpoint is {model.state_bytes() / 1e9:,.1f} GB: " + _checkpoint(model),
        ]
    )


def _checkpoint(model: Model) -> str:
    if model.speeds.disk_bytes_s >= FAST:
        return "how fast this disk is was not measured"
    return (
        f"written in {model.checkpoint_write_s():.1f} s, loaded in "
        f"{model.checkpoint_load_s():.1f} s"
    )


def _loads(model: Model, max_staleness: int) -> str:
    found = loads(model, max_staleness)
    first = found[0]
    rows = [
        f"  {load.name:<26}{load.seconds:10.3f} s  {load.seconds / first.seconds:6.1%}"
        for load in found
    ]
    return "\n".join(
        [
            "How long a step's work keeps each resource busy; side by side, a step cannot take "
            "less than the first",
            *rows,
            f"{first.name[0].upper()}{first.name[1:]} saturate{_s(first.name)} first. To change "
            f"that: {first.change}.",
        ]
    )


def _s(name: str) -> str:
    """The verb's ending."""
    plural = name.split(" (")[0].endswith("s")
    return "" if plural else "s"


def _simulated(outcome: Outcome, max_staleness: int) -> str:
    return (
        f"Simulated, max_staleness={max_staleness}: {outcome.step_s:.1f} s a step over "
        f"{outcome.steps} steps ({outcome.events:,} events), {outcome.tokens_per_s:,.0f} response "
        "tokens/s\n"
        f"  trainer busy {outcome.trainer_busy:.1%}, waiting {outcome.waiting_s:.1f} s a step; "
        f"engines busy {outcome.engines_busy:.1%} with {outcome.running:.1f} requests each; "
        f"verifiers {outcome.judges_busy:.1%}; workers {outcome.workers_busy:.1%}\n"
        f"  staleness {outcome.staleness:.2f} versions on average, {outcome.dropped} groups dropped"
    )


def _measured(request: Request, folder: str) -> Measured:
    return Measured.read(Path(folder), prompt=request.prompt, teacher_prompt=request.teacher_prompt)


def _calibrate(request: Request) -> None:
    run = _measured(request, request.calibrate)
    speeds = calibrated(run, f"measured by {request.calibrate}")
    target = Path(request.speeds or "speeds.json")
    speeds.write(target)
    print(f"wrote {target}")


def _check(request: Request) -> None:
    rows = compared(_measured(request, request.check), Speeds.read(Path(request.speeds)))
    print(f"{'':12}{'predicted':>12}{'measured':>12}{'ratio':>8}")
    for name, predicted, measured in rows:
        print(f"{name:<12}{predicted:10.2f} s{measured:10.2f} s{predicted / measured:8.2f}")
