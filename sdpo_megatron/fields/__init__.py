"""What a setting may be: config dataclasses whose fields carry their own range.

    declare     `settings`, the decorator; `refuse`, for settings that contradict each other
    kinds       the types with ranges: PositiveInt, Fraction, Seconds, Port, Texts, ...
    wording     pydantic's findings in our words, each line beginning with the key to type
    reading     from plain data to a config dataclass and back, and every key that there is

At the bottom of the project: it imports pydantic and the errors, and every folder that declares
settings imports it. It never imports torch.
"""

from sdpo_megatron.fields.declare import refuse, settings
from sdpo_megatron.fields.kinds import (
    Count,
    Counts,
    Fraction,
    NonNegative,
    Port,
    Positive,
    PositiveInt,
    Seconds,
    Text,
    Texts,
    Word,
)

__all__ = [
    "Count",
    "Counts",
    "Fraction",
    "NonNegative",
    "Port",
    "Positive",
    "PositiveInt",
    "Seconds",
    "Text",
    "Texts",
    "Word",
    "refuse",
    "settings",
]
