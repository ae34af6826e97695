"""Integrations with other libraries: small, optional, imported only where those are installed."""
