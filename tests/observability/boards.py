"""A board on which every series has a value."""

from __future__ import annotations

import itertools

from sdpo_megatron.observability.board import Board
from sdpo_megatron.observability.series import SERIES


def filled_board() -> Board:
    """Each label that takes any value has the value "x"."""
    board = Board()
    for series in SERIES:
        for values in itertools.product(*(known or ("x",) for known in series.labels.values())):
            labels = dict(zip(series.label_names, values, strict=True))
            if series.kind == "gauge":
                board.set(series.name, 1.0, **labels)
            elif series.kind == "counter":
                board.add(series.name, 1.0, **labels)
            else:
                board.observe(series.name, 1.0, **labels)
    return board
