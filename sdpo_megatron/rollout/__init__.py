"""From questions to what the actor trains on.

    ledger/                 which groups there are, and what became of them: an append-only file
    desk, admission         groups given out, taken back and cut into batches
    making                  from a lease to a receipt: what a rollout worker does
    prompts, tokenizer      chat templates to token ids; text stays text
    sampler                 groups of attempts from engines, judged as they arrive
    teacher_prompts         what the teacher is shown about each attempt
    batch                   judged groups -> samples with advantages and loss weights
    group_file              the samples of a group as flat arrays in a file, and its receipt
    store                   groups with all their texts on disk, for people
    summary                 metrics of a rollout batch

May import: serving, objectives, nouns, errors. Imported by the loops.
"""
