"""`python -m trbert`, which is the command `trbert`."""

import sys

from trbert.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
