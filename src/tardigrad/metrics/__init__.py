"""Numbers read back from run directories: scores, comparisons over seeds, a verdict. Imports no torch."""
