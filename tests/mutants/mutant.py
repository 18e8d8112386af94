"""What a mutant is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A mistake.

    Attributes:
        name: What it does, in words.
        file: Of the source, from the repository's root.
        text: Occurs exactly once in the file.
        instead: Takes the place of `text`.
        killed_by: A pytest node id, file or test.
    """

    name: str
    file: str
    text: str
    instead: str
    killed_by: str
