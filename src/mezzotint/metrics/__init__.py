"""How good samples are: distances between sets of feature vectors. No metric knows where its features come from."""
