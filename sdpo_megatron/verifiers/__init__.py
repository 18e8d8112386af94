"""Verifiers: from a task's item and a response to a Verdict, and nothing else.

    base, answers           the protocol, the registry, finding answers in text
    code/                   programs
    multiple_choice, mathematics, tool_use (tool_calls), instruction_following

May import: sandbox, nouns, errors. A verifier knows no task. Is imported by: judging, tasks.
"""
