"""A folder that fills: its pictures are inspected as they arrive, each once."""
