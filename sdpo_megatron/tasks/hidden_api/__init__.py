"""hidden_api: questions that cannot be answered before their feedback was read.

A question asks for a small function of a private library. It does not tell what the library's
callers know: the function's name, the names of its arguments, or the exception that bad input
raises. The environment's error message does. A model that has never seen one is right with a
probability near 0, so rewards alone teach it nothing; one that can copy a word from an error
message can teach itself.

    functions   the library: what each function is called, what it does, how it is asked for
    generator   from the library to the lines of a data file, seeded
    layout      from a line to a Question
"""

from sdpo_megatron.tasks.hidden_api.layout import LAYOUT

__all__ = ["LAYOUT"]
