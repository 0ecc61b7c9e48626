"""The zoo: residual unit, output skip, no skip, vector-valued unit, deep residual network, and feature maps."""
