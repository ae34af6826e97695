"""The Ray engine: Ray places, watches and restarts the workers; what they compute travels as between any machines.

Only this package imports ray.
"""
