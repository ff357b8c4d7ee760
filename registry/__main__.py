"""`python -P -m registry` is the same command as `mreg`."""

from registry.cli import main

main()
