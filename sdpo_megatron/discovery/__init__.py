"""Test-time discovery: how soon a hard question is solved.

    searches    the record of one search: a question, a seed, a method, the attempt that solved it
    curves      discovery@k with bootstrap intervals, and the speed-up at equal probability

May import: nouns, errors. Is imported by: loops, the command line.
"""
