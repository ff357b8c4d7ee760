"""Recipe `classification`: one net for any task on whole 3D images, with a head for each label."""
