"""How far generation may run ahead of training, and what has become too old to train on.

Groups are admitted while ``running + accepted < (eta + v + 1) x batch`` (AReaL, arXiv 2505.24298,
eq. 3): v rollout batches have been trained on, `accepted` groups are complete (those trained on
among them), and eta is `rollout.max_staleness`. Then no group waits for more than eta batches
before its own, and none is older than eta versions when its turn comes, but for those that took
longer than everything around them: these are dropped when a batch is planned, and made up for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def room(
    *, running: int, accepted: int, trained_batches: int, batch: int, eta: int, last: int
) -> int:
    """Groups that may be begun now.

    Args:
        running: Groups that workers have.
        accepted: Groups that are complete and not dropped, since the run began.
        trained_batches: Rollout batches whose weights the engines have: v.
        batch: Groups of a batch.
        eta: The largest staleness, in versions.
        last: Rollout batches of the run: what no step would train on is not begun.
    """
    batches = min(eta + trained_batches + 1, last)
    return max(0, batches * batch - running - accepted)


def is_stale(oldest: int | None, version: int, eta: int) -> bool:
    """Whether a group whose oldest token is of version `oldest` (None: nobody knows, or it has no
    token) may not be trained on by `version` any more.
    """
    return oldest is not None and oldest < version - eta


def choose(
    groups: Iterable[tuple[int, Mapping[str, Any]]], num: int, *, eta: int
) -> list[int] | None:
    """Positions of the `num` groups that make the next batch; None while there are fewer.

    The oldest first, so that as few as possible become too old; with eta 0 they are all of one
    version and come in the order of the run's questions.
    """
    by_age = sorted(
        groups, key=lambda group: (group[1].get("oldest_version") or 0 if eta else 0, group[0])
    )
    return sorted(position for position, _ in by_age[:num]) if len(by_age) >= num else None
