"""The command line: one file a command, only arguments, printing and exit codes."""
