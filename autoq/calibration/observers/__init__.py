"""Observers: the range of values of an operand, by minimum and maximum, percentiles or least squared error."""
