"""From a picture to a decision; no torch but in ``backends/torch_.py``."""
