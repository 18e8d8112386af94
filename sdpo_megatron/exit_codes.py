"""What the exit code of `sdpo` says, so that a scheduler can act on it.

A Kubernetes Job ignores `STOPPED` (a new pod resumes the run), fails at once on `USER_ERROR` (no
retry mends it) and counts `FAILED` against its limit of retries.
"""

DONE = 0
"""Everything that was asked for is done: a training run has taken all its steps."""
FAILED = 1
"""Anything else went wrong: another try may succeed."""
USER_ERROR = 2
"""A setting, a file or an argument cannot work; the message says what to change."""
STOPPED = 75
"""Stopped by SIGTERM or SIGINT with a checkpoint, before all steps were taken (EX_TEMPFAIL)."""
ORDERLY = (DONE, STOPPED)
"""How a training run leaves when nothing went wrong."""
