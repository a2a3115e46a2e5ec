"""`python -m tests.fuzz`, which is what `tools/dev fuzz` runs."""

import sys

from tests.fuzz.runner import main
from tools.devtool.run import DevError

try:
    main(sys.argv[1:])
except DevError as error:
    print(f"tools/dev fuzz: {error}", file=sys.stderr)
    sys.exit(error.status)
