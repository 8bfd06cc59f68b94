"""`python -P -m server.cli`, the same as `looptune`."""

from server.cli.main import main

main()
