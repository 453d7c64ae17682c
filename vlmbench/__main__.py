"""`python -m vlmbench` and the `vlmbench` command: every ending has the exit code of the contract."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line. A crash is never mistaken for a regression: it exits with 70, not 1."""
    from vlmbench.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
