"""What the Spinal Cord Toolbox (SCT) will do with a release: its conditions, its output files, its lines of code."""
