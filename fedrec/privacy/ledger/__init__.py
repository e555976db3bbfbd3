"""The privacy ledger: a crash-proof, tamper-evident account of what was spent on whom."""
