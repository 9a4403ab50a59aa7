"""`python -m distdqn`: the same as the console script."""

import sys

from distdqn.cli import main

if __name__ == "__main__":
    sys.exit(main())
