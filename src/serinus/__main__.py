"""`python -m serinus`: the same as the command `serinus`."""

from serinus.cli import main

main()
