"""Training: one model, a whole population in one program, or projected SGD on a stream."""
