"""nemo-run recipes: experiments as functions that return the configuration of a run.

    experiments                     quickstart, the paper's experiments and baselines, discovery
    engines                         the smallest engines that fit
    executors, scripts, slurm_places, engine_node
                                    the tasks of a run for nemo-run: local, Slurm
    kubernetes                      the same run as manifests
    launching, commands             an experiment of nemo-run and its exit code; `nemorun sdpo NAME`
    paper, paper_page               the authors' settings, fact by fact, and the page that shows
                                    ours beside them

The models and GPUs that they can be asked for, and the layouts that fit them, are those of
`sdpo_megatron.planning`. No value of an experiment stands here: all come from sdpo_megatron/conf.
Only executors, launching and commands import nemo_run. May import everything; is imported by
nothing else.
"""
