"""What serves predictors: over HTTP, from a folder."""
