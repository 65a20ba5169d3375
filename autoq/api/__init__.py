"""What ``import autoq`` offers, one module a part; ``autoq/__init__.py`` imports from here when a name is first used."""
