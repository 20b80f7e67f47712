"""What `tidegate init` writes: a folder with the configuration, the models and the start scripts of one site."""
