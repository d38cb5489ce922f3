"""A trained model at work: over HTTP, and on a folder that fills."""
