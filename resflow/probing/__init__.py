"""What the blocks of a residual network bring, read off its residual stream by linear probes."""
