"""Sensitivity: what errors of operands, sites and blocks cost the predictions; how well proxies rank recipes."""
