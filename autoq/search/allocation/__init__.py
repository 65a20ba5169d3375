"""Allocation: the options of least total loss within a budget, solved exactly."""
