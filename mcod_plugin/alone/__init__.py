"""A branch as it stands alone: its model and its data.

What takes branches out of a cohort, puts them together or compares them with
their cohort asks here.
"""
