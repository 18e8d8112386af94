"""The loss fused with the LM head: all the logits of a batch never exist at once.

    head_loss, chunk, score     LM head -> loss and gradients, chunk by chunk; log-probabilities
    options                 what the caller may choose: layout, temperature, memory
    logits, topk, shards    matrix products, exact top-K, the vocabulary over ranks
    dispatch, passes, kernels   what is done over a chunk of logits: in torch, and in Triton on CUDA

What is minimised comes from the folder above (`objective`, `targets`, `view`), of which nothing
imports this one but its public names. `head_loss` is imported from its file: the names are one. The
kernels, which a CUDA device alone loads, import Triton too.
"""
