"""Very many stored images, inspected on one machine or a Ray cluster, each once."""
