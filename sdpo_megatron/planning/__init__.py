"""What a run will need before it is started: memory a rank, seconds a phase, what gives out first.

Pure arithmetic, without torch: answers come at once, for models and machines that are not at hand.
May be imported by recipes and the command line; imports configurations and shapes of models.

    models, hardware        shapes of models and kinds of GPU that are known by name
    rank_share, memory      what a rank holds, line by line; `sheet` prints it
    layouts                 the smallest layout that fits
    lengths, workload       how long responses are, and what a step has to do
    speeds                  how fast a kind of GPU, or a measured machine, does each thing
    phases                  seconds of each phase of a step, each with its sum
    loads                   how busy each resource is, and what to change about the busiest
    division                the same machines, divided otherwise between trainer and engines
    simulation              an engine that decodes its requests together; a run as events
    calibration             speeds of a machine, from a run on it
    cluster, host_memory    how many of what; what a machine holds beside its GPUs
    request, cli            `sdpo plan`
"""
