"""Reports: a notebook as one HTML file, and the comparison of many runs."""
