"""Runs untrusted programs: isolation layers, limits, results that the program cannot forge.

See docs/security.md. `inside/` holds what runs beyond the fence; the other files are the host's
side. Imports the standard library, the errors and `fields`; `inside` the standard library alone.
"""

from .config import LAYERS, UNBOUNDED, RunLimits, SandboxConfig
from .program import Judge, Program, RunResult
from .python_tool import TOOL_LIMITS, PythonTool, ToolOutput
from .sandbox import Sandbox, detect_layers
from .words import limit_text

__all__ = [
    "LAYERS",
    "TOOL_LIMITS",
    "UNBOUNDED",
    "Judge",
    "Program",
    "PythonTool",
    "RunLimits",
    "RunResult",
    "Sandbox",
    "SandboxConfig",
    "ToolOutput",
    "detect_layers",
    "limit_text",
]
