"""From a user's tables (CSV, npy, npz, Parquet) to a recording: what the columns mean, the cells, the file."""
