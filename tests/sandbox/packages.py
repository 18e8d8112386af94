"""Where the packages that programs may use cannot be had."""

from __future__ import annotations

import sysconfig

HIDDEN = sysconfig.get_path("purelib").startswith("/tmp/")
WHY = "the interpreter's packages lie below /tmp, which a run's own /tmp hides"
