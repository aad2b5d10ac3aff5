"""Models on top of the public API. What depends on a model lives here, and nowhere in the compiler."""
