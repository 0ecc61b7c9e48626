"""The verdict on a point, the way out of a saddle, and the way down to a stationary point."""
