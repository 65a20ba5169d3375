"""What ``import autoq`` offers; ``autoq/__init__.py`` imports from here when a name is first used."""
