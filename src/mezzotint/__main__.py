"""``python -m mezzotint``, which ``torchrun`` and ``accelerate launch`` need."""

import sys

from mezzotint.cli import main

if __name__ == "__main__":
    sys.exit(main())
