"""Recipe `pretrain`: encoders from images without labels."""
