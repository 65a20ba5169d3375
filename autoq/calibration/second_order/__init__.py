"""Weights rounded with second-order information: the error of one column is made up for by those that follow."""
