"""How good a model is: what `sdpo evaluate` measures of recorded attempts.

    estimates   avg@n, pass@k and differences with intervals: pure functions
    records     the file of judged attempts, a line a question; resumable
    summary     the numbers by task and difficulty, and before against after
    tables      them as text
    harness     lm-evaluation-harness against the engines

`loops.evaluate` samples and judges. May import: discovery, nouns, errors, files.
"""
