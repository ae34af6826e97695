"""What theory says a run should look like; the simulator is checked against it."""
