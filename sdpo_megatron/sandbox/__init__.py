"""Runs untrusted programs: isolation layers, limits, results that the program cannot forge.

See docs/security.md. `inside/` holds what runs beyond the fence; the other files are the host's
side. Imports the standard library, the errors and `fields`; `inside` the standard library alone.
"""

from .config import LAYERS, UNBOUNDED, RunLimits, SandboxConfig
from .program import Judge, Program, RunResult
from .sandbox import Sandbox, detect_layers

__all__ = [
    "LAYERS",
    "UNBOUNDED",
    "Judge",
    "Program",
    "RunLimits",
    "RunResult",
    "Sandbox",
    "SandboxConfig",
    "detect_layers",
]
