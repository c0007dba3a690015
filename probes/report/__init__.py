"""Reports of checkpoints: files, tables, sentences and figures."""
