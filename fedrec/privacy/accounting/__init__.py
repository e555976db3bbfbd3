"""Privacy accounting: composition, calibration, Renyi bounds and what an epsilon means."""
