"""Very many stored pictures, inspected on one machine or a Ray cluster, each once."""
