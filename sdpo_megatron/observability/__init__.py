"""What people and monitoring see: metric declarations, exporter, display, run folder, process memory.

The lowest folder: it imports nothing of the project but the nouns and errors, and any folder may import it.
"""
