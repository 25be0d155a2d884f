"""`python -m postgrad`: the same as `postgrad`."""

from postgrad.cli import main

if __name__ == "__main__":
    main()
