"""Pictures of a run, of its augmentation, of a network's feature maps, and of published binary networks."""
