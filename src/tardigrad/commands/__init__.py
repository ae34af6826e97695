"""What each command of the command line does: one module for those that belong together, imported when needed."""
