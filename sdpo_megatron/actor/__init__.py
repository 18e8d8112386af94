"""The Megatron side: the policy's model on this rank, its teacher, its optimiser, its checkpoints.

    actor               one step: teacher forward, student forward and backward, optimiser step
    config, config_model    settings: optimiser, teacher, batch; layout, precision
    runtime             cuda or cpu, and every redirection that megatron needs on a CPU
    model, layers       Megatron's GPT that ends in hidden states; packed attention on a CPU
    packing             attempts -> packed micro-batches, balanced over data-parallel ranks
    context_parallel    cutting sequences over ranks
    pipeline            passes through Megatron's schedule
    teacher, weight_sets    several weight sets in one module
    batch_loss          masks, weights and denominators, on the way to `objectives`
    optimizer, checkpoint   distributed AdamW; reshardable, atomic checkpoints
    agree, fault        what ranks tell each other; where NaN first appears

May import: objectives, weights, nouns, errors. Imported by the loops. With `weights` the only
folder that imports megatron, after `runtime` has started.
"""
