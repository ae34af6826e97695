"""The local engine: real workers, one process each, on this machine."""
