"""`report.html` of a run folder: curves, health, times, settings, and a reader for attempts.

    attempts   what the run folder says of the attempts of a step
    blocks     these, compressed, as many as fit
    health     collapse signs and what else went wrong, in words
    run        everything else that the page says of a run
    page       the file: one page, nothing loaded from anywhere
    writer     writes it while the run goes
    command    `sdpo report`

Reads run folders only; `loops` and the command line import it.
"""
