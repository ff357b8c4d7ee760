"""One module a verb: parse the flags, make one call, render the answer."""
