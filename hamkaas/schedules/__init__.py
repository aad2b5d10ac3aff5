"""How a group of tensor operations becomes the loops of one kernel. Read in this order:

`index`     symbolic indices: what makes views free
`builder`   short names for building kernel IR
`elements`  the value of one element of a tensor, on demand: what makes fusion free
`team`      the threads and lanes that share a loop: one CPU worker, a warp, a block
`pointwise`, `rows`, `matmul`, `attention`, `attention_cuda`, `sample`   one schedule each
`lower`     picks the schedule of a group
"""
