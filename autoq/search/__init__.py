"""The search: spaces, the study, the front, run directories.

Nothing is imported here: ``autoq.search.space`` and ``autoq.search.front`` stay light. Start from
``autoq.runs.search.run.run_search``.
"""
