"""Judges attempts: on this machine, over HTTP, or over files.

    judge, config           what the training loop calls
    local, pool, worker     this machine: the sandbox, and bounded child processes
    retry, wire             tries after a failure of infrastructure; verdicts as JSON
    remote/                 the client of verifier services
    service/                the same over HTTP
    offline/                the same over files
    cli                     sdpo verify serve | batch

May import: tasks, verifiers, sandbox, observability, nouns, errors. Is imported by: loops, config.
"""
