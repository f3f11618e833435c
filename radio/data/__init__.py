"""Images of data sets: read, labeled, in batches."""
