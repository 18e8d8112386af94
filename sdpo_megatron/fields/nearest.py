"""What somebody who typed a key that does not exist may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection

_SIMILAR = 0.6
_MAX_NAMED = 3


def unknown_key(key: str, known: Collection[str]) -> str:
    """The message for a key that is none of `known`."""
    return f"{key}: there is no such setting; {suggestion(key, known)}"


def suggestion(key: str, known: Collection[str]) -> str:
    """``did you mean ...?`` with the nearest keys, else what there is at the top."""
    if near := nearest(key, known):
        return f"did you mean {' or '.join(near)}?"
    top = dict.fromkeys(name.partition(".")[0] for name in known)
    return f"there are: {', '.join(top)}" if top else "leave it out"


def nearest(key: str, known: Collection[str]) -> list[str]:
    """The keys that look most like `key`, the last name counting most; several only where they
    end alike.
    """
    scored = [(_likeness(key, name), name) for name in known]
    best = max((score for score, _ in scored), default=0.0)
    if best < _SIMILAR:
        return []
    winner = next(name for score, name in scored if score == best)
    alike = [
        name
        for score, name in scored
        if name != winner and score >= best - 0.1 and _last(name) == _last(winner)
    ]
    return [winner, *alike][:_MAX_NAMED]


def _likeness(key: str, name: str) -> float:
    """1 for the same key, above 0.7 for the same last name in another group."""
    group, _, last = key.rpartition(".")
    their_group, _, their_last = name.rpartition(".")
    return 0.75 * _ratio(last, their_last) + 0.25 * _ratio(group, their_group)


def _ratio(left: str, right: str) -> float:
    return difflib.SequenceMatcher(None, left, right).ratio()


def _last(key: str) -> str:
    return key.rpartition(".")[2]
