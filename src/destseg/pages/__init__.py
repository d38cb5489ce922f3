"""What all pages have in common: their look, their elements, and how one becomes a single file."""
