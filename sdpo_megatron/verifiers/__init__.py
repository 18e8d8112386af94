"""Verifiers: from a task item and a response to a Verdict, and everything that makes that hold at
scale.

    base, answers       the protocol, the registry, and how answers are found in text
    code*, multiple_choice, mathematics, tool_use, instruction_following    one verifier a file
    pool, worker        bounded child processes in which verifiers run
    local, judge        what the training loop calls
    wire, service, client, batch    the same over HTTP, and offline over files

May import: sandbox, nouns, errors. Is imported by: loops, tasks.
"""
