"""Studies: many runs of one plan, a table and a picture, and paired comparisons between runs."""
