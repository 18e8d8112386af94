"""From questions to what the actor trains on.

    prompts, tokenizer      chat templates to token ids; text stays text
    sampler                 groups of attempts from a pool of engines, judged as they arrive
    teacher_prompts         what the teacher is shown about each attempt
    batch                   judged groups -> samples with advantages and loss weights
    group_file              the samples of a group as flat arrays in a file, and its receipt
    store                   rollouts on disk, so that a step can be replayed
    summary                 metrics of a rollout batch

May import: serving, objectives, nouns, errors. Imported by the loops.
"""
