"""Critics: networks that were trained to tell two measures apart, and what they learned."""
