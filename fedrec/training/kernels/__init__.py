"""Local training in compiled loops: one device after the other, touched rows only, gradients in closed form."""
