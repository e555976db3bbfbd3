"""`python -m fedrec` is the `fedrec` command."""

from fedrec.cli import main

main()
