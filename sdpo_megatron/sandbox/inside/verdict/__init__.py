"""What an attempt's result is worth: who calls it, what it says, and who compares.

    attempt, choice         the attempt's own process: the module, the object that is called
    judge, checks           the process that holds the tests and never runs the attempt's code
    records, statement, judgement   closed layouts of what the one and the other may say
    compare, difference     two values or two texts: alike, or where they first differ
    render                  values as bounded text
    rehearsal               whether tests can be run at all, before any attempt is

Standard library and `plain_data`, the form in which values cross from one process to another.
"""
