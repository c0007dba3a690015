"""SimCLR views of 32x32 images, two an image: `core.views.augment` by the batch beside lightly's transform, an image at a time."""
