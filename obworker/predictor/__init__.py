"""What a predictor.py may ask for and give back; knows no sockets and no processes."""
