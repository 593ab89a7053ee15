"""`python -m isic`: the command, also where another package's `isic` comes first on the PATH."""

from isic.cli import main

main()
