"""The paper's tables and its rivals on frozen features: python jobs/paper.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `jobs` is not installed

from jobs.paper.main import main

if __name__ == "__main__":
    main()
