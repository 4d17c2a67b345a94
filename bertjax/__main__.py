"""`python -m bertjax` is the console script."""

from bertjax.cli import main

main()
