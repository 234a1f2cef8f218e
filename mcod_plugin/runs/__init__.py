"""What is known of a run: its record, its metrics, and how they are shown."""
