"""From an image to a decision; no torch but in ``backends/torch_.py``."""
