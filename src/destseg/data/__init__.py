"""What goes in: samples, pixels and drawings of them; numpy only, no torch."""
