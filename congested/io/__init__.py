"""Files: arrays for NumPy, fields for ParaView, and the result directory as a whole."""
