"""What only a device can tell: it is asked once, and what was decided is on disk.

cudnn     which cuDNN graphs of a module pay, and with which plans
shapes    how products of one row are shared out over threads
schedule  whether launches are nodes of a graph or steps of a persistent kernel
"""
