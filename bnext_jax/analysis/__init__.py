"""Operations, parameters and sizes of a network."""
