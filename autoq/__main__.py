"""``python -m autoq``."""

from autoq.cli.main import run

if __name__ == "__main__":
    run()
