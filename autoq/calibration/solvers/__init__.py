"""Solvers: the quantizer parameters of one operand, one scheme a file."""
