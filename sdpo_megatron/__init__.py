"""SDPO at Megatron scale: self-distillation policy optimization as a production training backend.

The folders, and what may import what (arrows point downwards only):

    loops -> config -> judging -> tasks -> verifiers -> sandbox
    loops -> rollout, actor -> objectives, weights

`nouns` and `errors` are at the bottom: everything may import them, they import nothing of ours.
`import sdpo_megatron` needs neither Megatron nor SGLang.
"""

__version__ = "0.1.0"
