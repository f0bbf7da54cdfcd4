"""digitsapp: a Flower / PyTorch app whose server survives a kill."""
