"""What a network computes and weighs."""
