"""From attempts to micro-batches, and from micro-batches to the numbers of the loss.

minibatch           which attempts of a rollout batch make one optimiser step
packing             attempts -> packed micro-batches, balanced over data-parallel ranks
context_parallel    cutting packed sequences over ranks, and putting responses together
batch_loss          masks, weights and denominators, on the way to `objectives`
"""
