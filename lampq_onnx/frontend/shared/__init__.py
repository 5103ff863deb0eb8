"""What the stages of the front end share: layers as modules, loaded models, batches, threads."""
