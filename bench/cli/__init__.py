"""The command line: one file a group of verbs; it parses, calls and prints, and decides nothing."""
