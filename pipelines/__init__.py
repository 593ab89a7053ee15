"""One thin main per DVC stage: parse identity, read parameters and inputs, call `isic`, write, log."""
