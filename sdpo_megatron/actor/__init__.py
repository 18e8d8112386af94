"""The Megatron side: the policy's model on this rank, its teacher, its optimiser, its checkpoints.

    actor               one step: teacher forward, student forward and backward, optimiser step
    config              settings: optimiser, teacher, batch
    runtime             cuda or cpu, and every redirection that megatron needs on a CPU
    model/              Megatron's GPT that ends in hidden states, and passes through it
    batches/            attempts -> packed micro-batches, and the numbers of their loss
    teacher, weight_sets    several weight sets in one module
    optimizer, checkpoint   distributed AdamW; reshardable, atomic checkpoints, in the background
    agree, fault        what ranks tell each other; where NaN first appears

May import: objectives, weights, nouns, errors. Imported by the loops. With `weights` the only
folder that imports megatron, after `runtime` has started.
"""
