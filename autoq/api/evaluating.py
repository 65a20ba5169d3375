"""``autoq.evaluate``."""
