"""Orthogonal rotations folded into weights: less quantization error, no work at run time."""
