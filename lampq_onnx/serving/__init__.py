"""Write quantized files in the formats that servers and devices take."""
