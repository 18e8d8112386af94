from sglang.srt.models.olmo2 import EntryClass

__all__ = ["EntryClass"]
