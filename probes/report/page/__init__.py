"""The page that people look at: one HTML file about several checkpoints."""
