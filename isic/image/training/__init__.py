"""What decides the weights of an image network."""
