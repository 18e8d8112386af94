"""How new weights are brought to the engines while they serve."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdpo_megatron.fields import Count, Seconds, Text, settings


@settings
class SwapConfig:
    """The transaction that swaps weights: docs/hotswap.md."""

    bucket_mib: Count = 0
    """Most MiB that travel at once (a single tensor is never cut). 0: an eighth of a pipeline
    stage's weights, between 16 and 512."""

    quorum: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Fraction of the engines that must serve a new version for the run to go on with it."""

    late_after_s: Seconds = 30.0
    """Seconds that an engine gets once a quorum has done the same; then it leaves the pool and
    reloads from disk by itself."""

    deadline_s: Seconds = 900.0
    """Longest a swap takes until a quorum serves the new version, reloads included, seconds; after
    that the run ends."""

    in_flight: Literal["retract", "wait", "abort"] = "retract"
    """Requests that are running at a swap. retract: they go on with the new weights, their tokens
    keep their versions; wait: they end first, on the old ones; abort: they end where they are."""

    verify: Literal["trainer", "engines"] = "trainer"
    """What an engine's checksum of its weights is compared with: the trainer's own, where it is
    known how the engine lays them out, or only the other engines'."""

    delta: bool = False
    """Leave each version's difference to the one before beside its folder, for sidecars at other
    sites (serving/site.py): a few per cent of its bytes at small learning rates."""

    address: Text = ""
    """Name or address at which engines reach the trainer's ranks (transport distributed). "":
    loopback for engines started here, else the one that this machine uses towards them."""
