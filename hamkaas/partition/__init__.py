"""Which operations belong together: acyclic clusters of a block, views as strides, and what cuDNN takes."""
