"""``python -m tardigrad``."""

from __future__ import annotations

import sys

from tardigrad.cli import main

sys.exit(main())
