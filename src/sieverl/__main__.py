"""`python -m sieverl` is the command `sieverl`."""

from __future__ import annotations

import sys

from sieverl.cli import main

sys.exit(main())
