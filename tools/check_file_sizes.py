"""Fail when a file that git tracks is larger than 500 kB: data and weights do not belong into the repository."""

import subprocess
import sys
from pathlib import Path

LIMIT = 500_000  # bytes


def main() -> None:
    """List tracked files over the limit and exit with 1 if there are any."""
    tracked = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout  # noqa: S607
    large = [p for p in tracked.split("\0") if p and Path(p).is_file() and Path(p).stat().st_size > LIMIT]
    for path in large:
        print(f"{path}: {Path(path).stat().st_size:,} bytes, more than {LIMIT:,}")
    sys.exit(1 if large else 0)


if __name__ == "__main__":
    main()
