"""What stands around a mixer in a block: norms, feed-forwards, experts, initialisation."""
