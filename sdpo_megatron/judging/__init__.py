"""Judges attempts: on this machine, over HTTP, or over files.

    judge, config           what the training loop calls
    backend                 the protocol of all that judges by a verifier's name
    local, pool, worker     this machine: the sandbox, and bounded child processes
    items, wire             items and verdicts as JSON
    bounds, retry           how long judging may take; tries after a failure of infrastructure
    bearer_token            what a service and its clients share
    remote/                 the client of verifier services
    service/                the same over HTTP
    offline/                the same over files

May import: tasks, verifiers, sandbox, nouns, errors. Is imported by: loops, config.
"""
