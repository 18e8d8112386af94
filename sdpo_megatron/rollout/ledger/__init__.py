"""Which groups there are, who works on which, and which step trained on it: the run's ledger.

    lines      one record a line, each with a checksum that goes on from the line before
    book       the state that the records lead to; no file, no clock
    ledger     both together: a change is written before anybody acts on it

May import: errors and files. One process writes a run's ledger: the one that holds its lease.
"""
