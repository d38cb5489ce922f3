"""``python -m destseg`` is the command line."""

import sys

from destseg.cli.main import main

sys.exit(main())
