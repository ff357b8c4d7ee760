"""Recipe `nnunet`: segmentation through the nnunetv2 library."""
