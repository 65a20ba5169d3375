"""Runs: what a command does from its settings to a directory that is complete, locked and resumable."""
