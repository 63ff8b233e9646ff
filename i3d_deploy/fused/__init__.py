"""I3D networks as a GPU wants them: channels last, normalisation folded, every convolution with what follows it."""
