"""Runs the command line: ``python -m sparsedict``."""

from sparsedict.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
