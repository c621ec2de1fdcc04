"""python -m tests.chaos"""

import sys

from tests.chaos import harness

if __name__ == '__main__':
  sys.exit(harness.main())
