"""``python -m hybridret.cli``."""

import sys

from hybridret.cli import main

sys.exit(main())
