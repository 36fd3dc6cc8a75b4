"""``python -m transferlab``."""

from transferlab.cli.main import main

if __name__ == "__main__":
    main()
