"""How the same machines could be divided between trainer and engines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.planning.loads import loads, synchronous_s
from sdpo_megatron.planning.phases import Model
from sdpo_megatron.planning.request import Request

_TRIED = 16


@dataclass(frozen=True, kw_only=True)
class Division:
    """One division.

    Attributes:
        nodes, engine_nodes: Machines of the trainer and of the engines.
        step_s: Seconds of a step, at least.
    """

    nodes: int
    engine_nodes: int
    step_s: float


def step_bound_s(model: Model, max_staleness: int) -> float:
    """Seconds that a step takes at least: of all phases one after the other in lockstep, else of
    the busiest resource, or of training and publishing.
    """
    if not max_staleness:
        return synchronous_s(model)
    serial = model.train_s() + model.publish().seconds
    return max(serial, *(load.seconds for load in loads(model, max_staleness)))


def best_division(request: Request) -> Division | None:
    """The fastest of several divisions of the machines that the request names; of equals, the one
    with the fewest for the trainer. None where engines share the trainer's machine.
    """
    if not request.nodes or not request.engine_nodes:
        return None
    found = []
    total = request.nodes + request.engine_nodes
    for nodes in sorted({request.nodes, *_numbers(total)}):
        try:
            model, sheet = replace(request, nodes=nodes, engine_nodes=total - nodes).plan()
        except ConfigError:  # no layout fits so few
            continue
        if sheet is None or sheet.fits:
            seconds = step_bound_s(model, request.max_staleness)
            found.append(Division(nodes=nodes, engine_nodes=total - nodes, step_s=seconds))
    return min(found, key=lambda one: one.step_s, default=None)


def _numbers(total: int) -> Iterator[int]:
    """Machines of the trainer to try: about equally many steps of equal ratio."""
    for i in range(_TRIED):
        yield min(total - 1, max(1, round(total ** (i / _TRIED))))
