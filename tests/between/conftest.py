"""What lies here beside the tests is for processes that they start: importing it registers a task."""

collect_ignore = ["paced.py"]
