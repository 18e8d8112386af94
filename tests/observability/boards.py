"""A board on which every series has a value."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from sdpo_megatron.observability.board import Board
from sdpo_megatron.observability.series import SERIES, Series


def filled_board() -> Board:
    """A run's board, filled."""
    board = Board()
    fill(board, SERIES)
    return board


def fill(board: Board, declared: Sequence[Series]) -> None:
    """Each label that takes any value has the value "x"."""
    for series in declared:
        for values in itertools.product(*(known or ("x",) for known in series.labels.values())):
            labels = dict(zip(series.label_names, values, strict=True))
            if series.kind == "gauge":
                board.set(series.name, 1.0, **labels)
            elif series.kind == "counter":
                board.add(series.name, 1.0, **labels)
            else:
                board.observe(series.name, 1.0, **labels)
