"""Engines whose workers join from anywhere: agents on other machines offer places for them, and dial in."""
