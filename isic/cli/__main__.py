"""`python -m isic.cli`."""

from isic.cli import main

main()
