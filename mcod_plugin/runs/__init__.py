"""What is known of a run: the format of its record, and how it is read.

A run writes its record while it trains; comparisons, cards and reports read
it.
"""
