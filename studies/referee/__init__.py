"""How the field judges: tuning asymmetry, and what is found where nothing is."""
