"""A folder that fills: its images are inspected as they arrive, each once."""
