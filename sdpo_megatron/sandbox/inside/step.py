"""What a process becomes next.

A zygote becomes workers by forking, a worker a template, a template an attempt or a judge. Each
returns what it becomes, all the way up to `start`, before that begins: no frame, and no object that
only a frame held, is left for a hostile program to walk over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Returns the next step, or None at the end.
Step = Callable[[], Any]
