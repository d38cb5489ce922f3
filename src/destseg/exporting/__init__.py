"""From a bundle to files that other runtimes open (torch for the first step)."""
