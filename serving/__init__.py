"""Starts, supervises and talks to SGLang engines.

Launch, CPU stand-ins, health, generation, weight hot-swap.

Only the engine process imports sglang. Everything here may import `sdpo_megatron.nouns`,
`errors`, `ports` and `process_tree`, nothing else of the package.
"""
