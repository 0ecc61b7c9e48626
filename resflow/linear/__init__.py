"""The best linear predictor, which every network is held against."""
