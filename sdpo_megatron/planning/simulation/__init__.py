"""The architecture as events: an engine that decodes (`engine`), and a whole run (`run`)."""
