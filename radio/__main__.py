"""``python -m radio`` is the ``radio`` command."""

import sys

from radio.cli import main

if __name__ == "__main__":
    sys.exit(main())
