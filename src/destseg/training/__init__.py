"""From good pictures to a bundle (torch)."""
