"""Verifiers: from a task item and a response to a Verdict, and all that makes that hold at scale.

    base, answers, wire     the protocol, the registry, finding answers in text, verdicts as JSON
    code*, multiple_choice, mathematics, tool_use (tool_calls), instruction_following
    pool, worker, retry     bounded child processes in which verifiers run
    local, judge            what the training loop calls
    service*, schema, guard, dispatcher, idempotency, metrics       the same over HTTP
    client, endpoints       and its caller
    batch*, parts           the same over files
    cli                     sdpo verify serve | batch

May import: sandbox, nouns, errors; judge, client, batch and cli also tasks. A verifier knows no
task. Is imported by: loops, tasks.
"""
