"""Networks of the recipes; they know no task."""
