"""Networks of torch, Flax and Equinox, run batch by batch and probed: `resflow.networks.torch.probe` and its likes."""
