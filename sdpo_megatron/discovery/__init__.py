"""Test-time discovery: how soon a hard question is solved.

    config      DiscoveryConfig
    conversation    the multi-turn baseline
    searches    the record of one search: a question, a seed, a method, the attempt that solved it
    curves      discovery@k with bootstrap intervals, and the speed-up at equal probability
    page        what searches came to, as a page

May import: nouns, fields, errors. Is imported by: config, loops, the command line.
"""
