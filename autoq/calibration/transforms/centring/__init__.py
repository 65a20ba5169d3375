"""Attention keys moved so that they lie around zero: no bits are spent on what a softmax does not see."""
