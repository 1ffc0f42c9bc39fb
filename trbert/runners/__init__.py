"""Ways to run a stage of layers. All obey the same laws."""
