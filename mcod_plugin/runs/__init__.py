"""What a run has measured, and how it is shown."""
