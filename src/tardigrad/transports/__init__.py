"""Transports: how one worker reaches the server."""
