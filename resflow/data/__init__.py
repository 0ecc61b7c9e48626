"""Data sets: arrays with names and a digest, bundled by name, synthetic, or from the user's own files."""
