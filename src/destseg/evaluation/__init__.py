"""How good the decisions and the maps are; numpy only, no torch."""
