"""What searches came to, as a page: discovery@k of each method, and each question's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from sdpo_megatron.discovery.curves import Curve, curve, speed_up
from sdpo_megatron.discovery.searches import SEARCHES, Search, by_question, read_searches
from sdpo_megatron.errors import ConfigError

METHODS = ("sdpo", "best_of_k", "multi_turn")


def searches_of(folders: Sequence[Path]) -> list[Search]:
    """The finished searches of these run folders.

    Raises:
        ConfigError: A folder has none.
    """
    found = []
    for folder in folders:
        searches = read_searches(folder / SEARCHES)
        if not searches:
            raise ConfigError(f"{folder / SEARCHES}: no finished search")
        found += searches
    return found


def page(searches: Sequence[Search]) -> str:
    """discovery@k at powers of two up to the least budget, the speed-up of SDPO where it was run,
    and at which attempt each search succeeded.
    """
    budget = min(search.budget for search in searches)
    ks = [2**n for n in range(budget.bit_length()) if 2**n < budget] + [budget]
    asked = {m: by_question(searches, m) for m in METHODS}
    curves = {method: curve(found, ks) for method, found in asked.items() if found}
    lines = [
        f"discovery@k: the probability of a success in the first k attempts (90 % bootstrap "
        f"interval over seeds), {len({s.question_id for s in searches})} questions.",
        "",
        "| k | " + " | ".join(curves) + " |",
        "| --- |" + " --- |" * len(curves),
    ]
    for at, k in enumerate(ks):
        cells = [
            f"{one.values[at]:.3f} ({one.low[at]:.2f} to {one.high[at]:.2f})"
            for one in curves.values()
        ]
        lines.append(f"| {k} | {' | '.join(cells)} |")
    lines += ["", *_speed_ups(curves), *_questions(asked)]
    return "\n".join(lines) + "\n"


def _speed_ups(curves: dict[str, Curve]) -> list[str]:
    if "sdpo" not in curves or len(curves) < 2:
        return []
    ours, lines = curves["sdpo"], []
    for method, theirs in curves.items():
        if method != "sdpo":
            level = min(ours.values[-1], theirs.values[-1])
            factor = speed_up(ours, theirs, level) if level > 0 else math.nan
            said = "neither or only one solved any" if math.isnan(factor) else f"{factor:.2g} times"
            lines.append(
                f"To reach {level:.3f}, {method} needs {said} the attempts of sdpo."
                if not math.isnan(factor)
                else f"sdpo against {method}: {said}."
            )
    return [*lines, ""]


def _questions(asked: Mapping[str, Mapping[str, list[Search]]]) -> list[str]:
    used = {method: found for method, found in asked.items() if found}
    names = sorted({name for found in used.values() for name in found})
    lines = [
        "First success by question, one number a seed (- for none in the budget):",
        "",
        "| question | " + " | ".join(used) + " |",
        "| --- |" + " --- |" * len(used),
    ]
    for name in names:
        cells = [
            ", ".join(
                "-" if s.found_at is None else str(s.found_at)
                for s in sorted(found.get(name, ()), key=lambda s: s.seed)
            )
            for found in used.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines
