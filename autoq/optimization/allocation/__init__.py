"""Allocation: the configuration of least total sensitivity within a budget of bit operations, solved exactly."""
