"""Types with ranges, for the fields of config dataclasses."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Port = Annotated[int, Field(ge=0, le=65535)]

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Seconds = Positive
Fraction = Annotated[float, Field(ge=0, le=1)]

Text = Annotated[str, Field(strict=False, coerce_numbers_to_str=True)]
"""Text; YAML and the command line write 28 where "28" is meant."""
Word = Annotated[str, Field(strict=False, coerce_numbers_to_str=True, min_length=1)]
"""Text that may not be empty."""
Texts = Annotated[tuple[Text, ...], Field(strict=False)]
"""Several texts; YAML gives a list."""
Counts = Annotated[tuple[Count, ...], Field(strict=False)]
"""Several numbers of 0 or more; YAML gives a list."""
