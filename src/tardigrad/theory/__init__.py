"""What theory says: the staleness a run should show, and when delayed, compensated descent is stable."""
