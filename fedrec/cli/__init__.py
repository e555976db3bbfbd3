"""The `fedrec` command: one file per subcommand."""
