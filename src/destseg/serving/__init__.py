"""A trained model at work over HTTP."""
