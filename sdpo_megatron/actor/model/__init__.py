"""The model on this rank.

    config      settings: layout over ranks, precision
    gpt         Megatron's GPT that ends in hidden states
    layers/     what its layers are made of where Transformer Engine is absent
    pipeline    passes through Megatron's schedule: hidden states out, gradients in

Importing `gpt` imports megatron: start the runtime first.
"""
