"""Integer weights as bytes: how codes are packed, and the nodes that unpack them."""
