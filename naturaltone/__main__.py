"""Makes `python -m naturaltone` the same as the command `naturaltone`."""

import sys

from naturaltone.cli import main

sys.exit(main())
