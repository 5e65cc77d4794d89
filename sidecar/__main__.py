"""`python -m sidecar`: the same as the console script."""

from sidecar.cli import main

raise SystemExit(main())
