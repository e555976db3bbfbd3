"""The round loop: sample a cohort, gather updates, add noise, step, checkpoint, commit; and what a node does for it."""
