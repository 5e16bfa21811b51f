"""`python -m dlde`: the same as the console script."""

from dlde.cli import main

if __name__ == "__main__":
    main()
