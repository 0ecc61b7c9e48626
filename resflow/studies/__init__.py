"""What the notebooks study: measures along training, worked examples, and many runs in few numbers."""
