"""Many categories: which models are to be trained, who trains them, and what came of it."""
