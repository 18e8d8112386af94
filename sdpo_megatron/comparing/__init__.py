"""Fair comparisons: several objectives on the same questions, generations and seeds.

    variants     what is compared, by name, as overrides of an experiment
    comparison   the folder of a comparison: what was asked for, which runs are done, their numbers
    runs         the runs, one after the other, each as `sdpo train` would make it
    estimates    means with intervals, and how many generations reach a level
    tables       the numbers as a page
    cli          ``sdpo compare``

May import: evaluation, config, observability, nouns, errors. Is imported by: the command line.
"""
