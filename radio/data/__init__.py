"""Images of data sets: read, labelled, in batches."""
