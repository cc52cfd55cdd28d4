"""Run `trm` as `python -m orchestrator.cli`, where the package is on the path but not installed."""

from orchestrator.cli import main

if __name__ == "__main__":
    main()
