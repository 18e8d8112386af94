"""What people and monitoring see: metric declarations, exporter, display, run folder, memory.

The lowest folder: it imports nothing of the project but the nouns and errors; any folder may
import it.
"""
