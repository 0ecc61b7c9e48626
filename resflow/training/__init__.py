"""Training: one model, or a whole population in one program, and what is measured on the way."""
