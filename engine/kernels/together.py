"""What the threads of a GPU's warp or block do together. All of them must come here; every thread gets the result.

These functions are text for GPU kernels (see `grid`), where `real` is the number type. Threads of a block are a multiple of 32.
The order of additions is that of a tree over the threads' numbers, always the same.
"""
# pyright: reportUndefinedVariable=false


def warp_sum(x):
    """The sum of x over the 32 threads of a warp."""
    x += cuda.shfl_xor_sync(-1, x, 16)
    x += cuda.shfl_xor_sync(-1, x, 8)
    x += cuda.shfl_xor_sync(-1, x, 4)
    x += cuda.shfl_xor_sync(-1, x, 2)
    x += cuda.shfl_xor_sync(-1, x, 1)
    return x


def warp_greatest(x):
    """The greatest x of the 32 threads of a warp; NaN if one is."""
    x = maximum(x, cuda.shfl_xor_sync(-1, x, 16))
    x = maximum(x, cuda.shfl_xor_sync(-1, x, 8))
    x = maximum(x, cuda.shfl_xor_sync(-1, x, 4))
    x = maximum(x, cuda.shfl_xor_sync(-1, x, 2))
    return maximum(x, cuda.shfl_xor_sync(-1, x, 1))


def block_sum(x, room):
    """The sum of x over the threads of a block. `room` is a shared array of 32 numbers, free again afterwards."""
    x = warp_sum(x)
    if cuda.threadIdx.x % 32 == 0:
        room[cuda.threadIdx.x // 32] = x
    cuda.syncthreads()
    x = room[0]
    for warp in range(1, cuda.blockDim.x // 32):
        x += room[warp]
    cuda.syncthreads()
    return x


def block_greatest(x, room):
    """The greatest x of the threads of a block; NaN if one is. `room` as for `block_sum`."""
    x = warp_greatest(x)
    if cuda.threadIdx.x % 32 == 0:
        room[cuda.threadIdx.x // 32] = x
    cuda.syncthreads()
    x = room[0]
    for warp in range(1, cuda.blockDim.x // 32):
        x = maximum(x, room[warp])
    cuda.syncthreads()
    return x


ALL = (warp_sum, warp_greatest, block_sum, block_greatest)
