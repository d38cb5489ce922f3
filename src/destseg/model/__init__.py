"""The networks: teacher, student, head and DeSTSeg composed of them (torch)."""
