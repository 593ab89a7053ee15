"""One thin main per DVC stage: parse options, read params and inputs, call `isic`, write, log."""
