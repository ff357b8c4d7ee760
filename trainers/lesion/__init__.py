"""Lesions of the spinal cord: a network that looks only at what lies around the cord."""
