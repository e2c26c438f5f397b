"""Wire protocols of a model host. Each module turns bytes into checked values and answers into bytes."""
