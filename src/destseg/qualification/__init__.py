"""How small a defect is found: drawn defects on good images, curves, limits, and a page to sign."""
