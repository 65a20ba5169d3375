"""A search: from settings to a run directory with a front of recipes."""
