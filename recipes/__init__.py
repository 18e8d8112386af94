"""nemo-run recipes: experiments as functions that return the configuration of a run.

    experiments                     quickstart, the paper's experiments and baselines, discovery
    models, hardware                what they can be asked for: shapes, kinds of GPU, machines
    layouts, engines                the smallest layout and the smallest engines that fit
    memory, rank_share, sheet       the arithmetic behind "fits", shown when it does not
    executors, scripts, slurm_places, engine_node
                                    the tasks of a run for nemo-run: local, Slurm
    kubernetes                      the same run as manifests
    launching, commands             an experiment of nemo-run and its exit code; `nemorun sdpo NAME`
    paper, paper_page               the authors' settings, fact by fact, and the page that shows
                                    ours beside them

No value of an experiment stands here: all come from sdpo_megatron/conf. Only executors, launching
and commands import nemo_run. May import everything; is imported by nothing else.
"""
