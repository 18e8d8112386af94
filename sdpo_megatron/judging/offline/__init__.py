"""Verdicts over files: shards, parts that appear whole or not at all."""
