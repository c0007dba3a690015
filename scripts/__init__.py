"""What a person runs; each script is a short composition root with a visible loop."""
