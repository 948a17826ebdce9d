"""`python -m sieverl` is the command `sieverl`."""

import sys

from sieverl.cli import main

sys.exit(main())
