"""Options of the fused loss: what is refused, and the chunk that a budget of memory allows."""

from __future__ import annotations

from typing import Any

import pytest

from sdpo_megatron.objectives import HeadOptions, chunk_within


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature 0 and chunk_tokens 256 must be positive"),
        ({"temperature": -1.0}, "temperature -1"),
        ({"chunk_tokens": 0}, "temperature 1 and chunk_tokens 0"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeadOptions(**fields)


@pytest.mark.parametrize(
    ("memory_mib", "rows", "chunk"),
    [
        (96, 49152, 256),  # two buffers of 256 x 49152 x 4 bytes are 96 MiB to the byte
        (96, 49153, 192),  # one row more, and a tile of 64 less
        (830, 151936, 704),  # a large vocabulary on one GPU: 816 MiB
        (768, 18992, 5248),  # the same on one of eight ranks
        (1, 49152, 2),  # less than a tile
        (0.001, 151936, 1),  # never none
        (1, 0, 131072),  # a rank that holds padding alone
    ],
)
def test_a_budget_of_memory_decides_the_chunk(memory_mib: float, rows: int, chunk: int) -> None:
    assert chunk_within(memory_mib, rows) == chunk
    assert chunk == 1 or 8 * chunk * rows <= memory_mib * 2**20
