"""From good images to a bundle (torch)."""
