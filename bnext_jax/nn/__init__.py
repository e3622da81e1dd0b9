"""The building blocks of networks: quantizers, layers, convolutions, units."""
