"""Rewrites of the traced graph that come before quantization: reparameterized LayerNorms, integer operations."""
