"""Shards: the flat buffer split over several servers that apply every commit together."""
