"""What the endpoint needs beside the public vLLM image, and the laptop's stand-in for that image."""
