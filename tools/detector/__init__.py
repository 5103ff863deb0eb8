"""Parts of the training of the detector of generated scenes."""
