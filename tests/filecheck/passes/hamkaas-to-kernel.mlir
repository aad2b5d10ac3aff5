// RUN: hamkaas-opt %s -p 'hamkaas-to-kernel{target=cpu}' --split-input-file | filecheck %s --check-prefix=CPU
// RUN: hamkaas-opt %s -p 'hamkaas-to-kernel{target=cuda}' --split-input-file | filecheck %s --check-prefix=CUDA
// RUN: hamkaas-opt %s -p 'hamkaas-to-kernel{target=cuda max-cluster=8}' --split-input-file | filecheck %s --check-prefix=CLUSTER

// Pointwise: on the CPU vectors, then what is left over; on CUDA a thread per element.
// CPU-LABEL: kernel.func @pointwise(%x: memref<10xf32>, %out: memref<10xf32>)
// CPU-SAME: grid = 1 : i64, block = 1 : i64, inputs = 1 : i64, results = array<i64: 1>
// CPU: kernel.load %x[{{.*}}] : memref<10xf32> -> vector<8xf32>
// CPU: kernel.load %x[{{.*}}] : memref<10xf32> -> f32
// CUDA-LABEL: kernel.func @pointwise
// CUDA-SAME: grid = 1 : i64, block = 128 : i64
// CUDA: arith.cmpi slt
// CUDA: kernel.load %x[{{.*}}] : memref<10xf32> -> f32
hamkaas.group @pointwise(%x: tensor<10xf32>) -> tensor<10xf32> {
  %0 = hamkaas.relu %x : (tensor<10xf32>) -> tensor<10xf32>
  hamkaas.yield %0 : tensor<10xf32>
}

// -----

// Views are addresses: element (i, j) of the result is read at j * 3 + i, and nothing else happens.
// CUDA-LABEL: kernel.func @views
// CUDA-COUNT-1: kernel.load
// CUDA-NOT: kernel.load
// CUDA: kernel.store
hamkaas.group @views(%x: tensor<4x3xf32>) -> tensor<3x4xf32> {
  %0 = hamkaas.permute %x axes [1, 0] : (tensor<4x3xf32>) -> tensor<3x4xf32>
  hamkaas.yield %0 : tensor<3x4xf32>
}

// -----

// A weight stored [out, in] is read along its rows, past the first cache on CUDA; the sum ends in one lane. On the CPU
// four rows are read side by side that are far apart: here a quarter of the matrix, 256 numbers.
// CPU-LABEL: kernel.func @matvec
// CPU-SAME: grid = 2 : i64
// CPU: scf.for %k =
// CPU: kernel.load %w[%[[FIRST:.*]]] cache stream : memref<1024xf32> -> vector<16xf32>
// CPU: arith.addi %{{.*}}, %c256
// CPU: kernel.load %w[{{.*}}] cache stream : memref<1024xf32> -> vector<16xf32>
// CPU: arith.addi %{{.*}}, %c512
// CPU: kernel.load %w[{{.*}}] cache stream : memref<1024xf32> -> vector<16xf32>
// CPU: arith.addi %{{.*}}, %c768
// CPU: kernel.load %w[{{.*}}] cache stream : memref<1024xf32> -> vector<16xf32>
// CPU-NOT: kernel.load %w
// CPU: kernel.reduce add
// CUDA-LABEL: kernel.func @matvec
// CUDA: kernel.load %w[{{.*}}] align 16 cache stream : memref<1024xf32> -> vector<4xf32>
// CUDA: kernel.shuffle_xor %{{.*}}, 16 : f32
hamkaas.group @matvec(%x: tensor<128xf32>, %w: tensor<8x128xf32>) -> tensor<8xf32> {
  %t = hamkaas.permute %w axes [1, 0] : (tensor<8x128xf32>) -> tensor<128x8xf32>
  %0 = hamkaas.matmul %x, %t : (tensor<128xf32>, tensor<128x8xf32>) -> tensor<8xf32>
  hamkaas.yield %0 : tensor<8xf32>
}

// -----

// Rows 0 and 1, 2 and 3, ... meet in a complex product, and have to be computed by one worker; still they are not read
// side by side, but first the even rows of all four pairs, 256 numbers apart, and then the odd ones.
// CPU-LABEL: kernel.func @pairs
// CPU: scf.for %k =
// CPU: kernel.load %w[%{{.*}}] cache stream
// CPU: arith.addi %{{.*}}, %c256
// CPU: kernel.reduce add
// CPU: scf.for %k_1 =
// CPU: arith.addi %{{.*}}, %c128
// CPU: kernel.load %w[%{{.*}}] cache stream
// CPU: arith.addi %{{.*}}, %c384
// CPU: kernel.reduce add
hamkaas.group @pairs(%x: tensor<128xf32>, %w: tensor<8x128xf32>, %r: tensor<4x2xf32>) -> tensor<4x2xf32> {
  %t = hamkaas.permute %w axes [1, 0] : (tensor<8x128xf32>) -> tensor<128x8xf32>
  %0 = hamkaas.matmul %x, %t : (tensor<128xf32>, tensor<128x8xf32>) -> tensor<8xf32>
  %1 = hamkaas.reshape %0 : (tensor<8xf32>) -> tensor<4x2xf32>
  %2 = hamkaas.complex_mul %1, %r : (tensor<4x2xf32>, tensor<4x2xf32>) -> tensor<4x2xf32>
  hamkaas.yield %2 : tensor<4x2xf32>
}

// -----

// Two products of one vector are two streams each. Their 6 rows make 3 tiles.
// CPU-LABEL: kernel.func @gated
// CPU-SAME: grid = 3 : i64
// CPU: scf.for %k =
// CPU-COUNT-2: kernel.load %w[{{.*}}] cache stream
// CPU-NOT: kernel.load %w
// CPU-COUNT-2: kernel.load %v[{{.*}}] cache stream
// CPU: kernel.reduce add
hamkaas.group @gated(%x: tensor<128xf32>, %w: tensor<6x128xf32>, %v: tensor<6x128xf32>) -> tensor<6xf32> {
  %wt = hamkaas.permute %w axes [1, 0] : (tensor<6x128xf32>) -> tensor<128x6xf32>
  %vt = hamkaas.permute %v axes [1, 0] : (tensor<6x128xf32>) -> tensor<128x6xf32>
  %0 = hamkaas.matmul %x, %wt : (tensor<128xf32>, tensor<128x6xf32>) -> tensor<6xf32>
  %1 = hamkaas.matmul %x, %vt : (tensor<128xf32>, tensor<128x6xf32>) -> tensor<6xf32>
  %2 = hamkaas.mul %0, %1 : (tensor<6xf32>, tensor<6xf32>) -> tensor<6xf32>
  hamkaas.yield %2 : tensor<6xf32>
}

// -----

// Not 16 numbers at a time where they are f16, which takes longer to convert, nor where 8 leave less of a row over; and
// 3 rows are no more than 3 streams.
// CPU-LABEL: kernel.func @half
// CPU-COUNT-6: kernel.load %w[{{.*}}] cache stream : memref<384xf16> -> vector<8xf16>
// CPU: kernel.reduce add
hamkaas.group @half(%x: tensor<128xf32>, %w: tensor<3x128xf16>) -> tensor<3xf32> {
  %c = hamkaas.cast %w : (tensor<3x128xf16>) -> tensor<3x128xf32>
  %t = hamkaas.permute %c axes [1, 0] : (tensor<3x128xf32>) -> tensor<128x3xf32>
  %0 = hamkaas.matmul %x, %t : (tensor<128xf32>, tensor<128x3xf32>) -> tensor<3xf32>
  hamkaas.yield %0 : tensor<3xf32>
}

// -----

// CPU-LABEL: kernel.func @ragged
// CPU-COUNT-8: kernel.load %w[{{.*}}] cache stream : memref<688xf32> -> vector<8xf32>
// CPU: kernel.load %w[{{.*}}] cache stream : memref<688xf32> -> f32
hamkaas.group @ragged(%x: tensor<172xf32>, %w: tensor<4x172xf32>) -> tensor<4xf32> {
  %t = hamkaas.permute %w axes [1, 0] : (tensor<4x172xf32>) -> tensor<172x4xf32>
  %0 = hamkaas.matmul %x, %t : (tensor<172xf32>, tensor<172x4xf32>) -> tensor<4xf32>
  hamkaas.yield %0 : tensor<4xf32>
}

// -----

// With several rows on the left a matrix is read more than once: from a cache, where neighbours are as good.
// CPU-LABEL: kernel.func @rows
// CPU: scf.for %k =
// CPU: kernel.load %w[%{{.*}}] : memref<768xf32> -> vector<8xf32>
// CPU: arith.addi %{{.*}}, %c128
// CPU: kernel.load %w[%{{.*}}] : memref<768xf32> -> vector<8xf32>
// CPU: kernel.reduce add
hamkaas.group @rows(%x: tensor<4x128xf32>, %w: tensor<6x128xf32>) -> tensor<4x6xf32> {
  %t = hamkaas.permute %w axes [1, 0] : (tensor<6x128xf32>) -> tensor<128x6xf32>
  %0 = hamkaas.matmul %x, %t : (tensor<4x128xf32>, tensor<128x6xf32>) -> tensor<4x6xf32>
  hamkaas.yield %0 : tensor<4x6xf32>
}

// -----

// A product of matrices on CUDA is staged through shared memory.
// CUDA-LABEL: kernel.func @tiled
// CUDA-COUNT-2: kernel.alloc : memref<1088xf32, #kernel<space shared>>
// CUDA: kernel.barrier
// CUDA: math.fma
hamkaas.group @tiled(%x: tensor<70x32xf32>, %y: tensor<32x70xf32>) -> tensor<70x70xf32> {
  %0 = hamkaas.matmul %x, %y : (tensor<70x32xf32>, tensor<32x70xf32>) -> tensor<70x70xf32>
  hamkaas.yield %0 : tensor<70x70xf32>
}

// -----

// A cache is updated in place: the result is argument 0, the bounds may be checked by the host, and the kernel itself
// stores only inside.
// CPU-LABEL: kernel.func @update
// CPU-SAME: results = array<i64: 0>
// CPU-SAME: bounds = [#kernel.bound<2 in 0 to 15 fault 1>, #kernel.bound<3 in 0 to 16 fault 1>]
// CPU-SAME: spans = [#kernel.span<2 to 3 is 1>]
// CPU-SAME: status = 1 : i64
hamkaas.group @update(%k: tensor<16x8xf32>, %x: tensor<1x8xf32>, %b: tensor<1xi64>, %e: tensor<1xi64>) -> tensor<16x8xf32> {
  %0 = hamkaas.replace_slice %k, %x from %b to %e
    : (tensor<16x8xf32>, tensor<1x8xf32>, tensor<1xi64>, tensor<1xi64>) -> tensor<16x8xf32>
  hamkaas.yield %0 : tensor<16x8xf32>
}

// -----

// With constant bounds there is nothing to check.
// CPU-LABEL: kernel.func @constant_bounds
// CPU-NOT: status
// CPU: kernel.return
hamkaas.group @constant_bounds(%k: tensor<16x8xf32>, %x: tensor<1x8xf32>) -> tensor<16x8xf32> {
  %b = hamkaas.constant 3 : i64 -> tensor<1xi64>
  %e = hamkaas.constant 4 : i64 -> tensor<1xi64>
  %0 = hamkaas.replace_slice %k, %x from %b to %e
    : (tensor<16x8xf32>, tensor<1x8xf32>, tensor<1xi64>, tensor<1xi64>) -> tensor<16x8xf32>
  hamkaas.yield %0 : tensor<16x8xf32>
}

// -----

// Bytes: all of the matrix is on its way in words of 16 before the block has put the vector into its memory, in another
// order of chunks; a scale is the factor of a sum of 16 numbers. The end needs no barrier: a warp is a team.
// CUDA-LABEL: kernel.func @bytes
// CUDA: kernel.alloc : memref<1024xf32, #kernel<space shared>>
// CUDA: [[Q:%.*]] = kernel.load %w[{{.*}}] align 16 cache stream : memref<{{.*}}xi8> -> vector<16xi8>
// CUDA-NEXT: [[W:%.*]] = kernel.convert [[Q]] : vector<16xi8> -> vector<16xf32>
// CUDA: [[F:%.*]] = kernel.load %s[{{.*}}]
// CUDA-COUNT-3: kernel.load %w[{{.*}}] align 16 cache stream : memref<{{.*}}xi8> -> vector<16xi8>
// CUDA: arith.xori
// CUDA: kernel.store %{{.*}} align 16 : vector<4xf32>, memref<1024xf32, #kernel<space shared>>
// CUDA: kernel.barrier
// CUDA-NOT: kernel.barrier
// CUDA-COUNT-4: kernel.load %{{.*}} align 16 : memref<1024xf32, #kernel<space shared>> -> vector<4xf32>
// CUDA: [[S:%.*]] = kernel.dot %{{.*}}, [[W]] : vector<16xf32> -> f32
// CUDA: math.fma [[S]], [[F]], %{{.*}} : f32
// CUDA: kernel.shuffle_xor
hamkaas.group @bytes(%x: tensor<1024xf32>, %w: tensor<8192x1024xi8>, %s: tensor<8192x32xf32>) -> tensor<8192xf32> {
  %0 = hamkaas.dequantize %w, %s : (tensor<8192x1024xi8>, tensor<8192x32xf32>) -> tensor<8192x1024xf32>
  %t = hamkaas.permute %0 axes [1, 0] : (tensor<8192x1024xf32>) -> tensor<1024x8192xf32>
  %1 = hamkaas.matmul %x, %t : (tensor<1024xf32>, tensor<1024x8192xf32>) -> tensor<8192xf32>
  hamkaas.yield %1 : tensor<8192xf32>
}

// -----

// Groups of four are no factor of more: a load takes four bytes, and there is nothing to gain.
// CUDA-LABEL: kernel.func @small_groups
// CUDA: -> vector<4xi8>
// CUDA-NOT: -> vector<16xi8>
// CUDA: kernel.return
hamkaas.group @small_groups(%x: tensor<1024xf32>, %w: tensor<8x1024xi8>, %s: tensor<8x256xf32>) -> tensor<8xf32> {
  %0 = hamkaas.dequantize %w, %s : (tensor<8x1024xi8>, tensor<8x256xf32>) -> tensor<8x1024xf32>
  %t = hamkaas.permute %0 axes [1, 0] : (tensor<8x1024xf32>) -> tensor<1024x8xf32>
  %1 = hamkaas.matmul %x, %t : (tensor<1024xf32>, tensor<1024x8xf32>) -> tensor<8xf32>
  hamkaas.yield %1 : tensor<8xf32>
}

// -----

// Attention over a cache: on CUDA one pass over the positions, four at once. Two heads of 1 MiB of keys and values each
// are split over as many blocks as a cluster may have, which meet once they have all started and once more at the end,
// where only the first goes on; without clusters there is a block for each head. On the CPU the scores are kept.
// CPU-LABEL: kernel.func @attention
// CPU-SAME: grid = 2 : i64, block = 1 : i64
// CPU: kernel.alloc : memref<1024xf32, #kernel<space shared>>
// CPU-COUNT-3: scf.for
// CUDA-LABEL: kernel.func @attention
// CUDA-SAME: grid = 2 : i64, block = 256 : i64
// CUDA-SAME: min_blocks = 2 : i64
// CUDA-NOT: cluster
// CUDA: kernel.return
// CLUSTER-LABEL: kernel.func @attention
// CLUSTER-SAME: grid = 16 : i64, block = 256 : i64
// CLUSTER-SAME: cluster = 8 : i64, min_blocks = 2 : i64
// CLUSTER: kernel.cluster_arrive relaxed
// CLUSTER: scf.for
// CLUSTER-COUNT-4: kernel.load %k[{{.*}}] align 16 : memref<262144xf32> -> vector<4xf32>
// CLUSTER-COUNT-4: kernel.load %v[{{.*}}] align 16 : memref<262144xf32> -> vector<4xf32>
// CLUSTER: kernel.barrier
// CLUSTER: kernel.cluster_wait
// CLUSTER: kernel.cluster_store {{.*}} align 16 : vector<4xf32>
// CLUSTER: kernel.cluster_arrive
// CLUSTER-NEXT: kernel.cluster_wait
// CLUSTER: scf.if
// CLUSTER: kernel.store {{.*}}, %out
hamkaas.group @attention(%q: tensor<2x128xf32>, %k: tensor<1024x2x128xf32>, %v: tensor<1024x2x128xf32>, %n: tensor<1xi64>) -> tensor<2x128xf32> {
  %0 = hamkaas.attention %q, %k, %v length %n scale 1.000000e-01
    : (tensor<2x128xf32>, tensor<1024x2x128xf32>, tensor<1024x2x128xf32>, tensor<1xi64>) -> tensor<2x128xf32>
  hamkaas.yield %0 : tensor<2x128xf32>
}

// -----

// A short cache is not worth more than a block for each head. What is narrower than a float is read by 16 bytes too.
// CLUSTER-LABEL: kernel.func @short
// CLUSTER-SAME: grid = 2 : i64, block = 128 : i64
// CLUSTER-NOT: cluster
// CLUSTER: kernel.load %k[{{.*}}] align 16 : memref<8192xf16> -> vector<8xf16>
// CLUSTER-NOT: cluster
hamkaas.group @short(%q: tensor<2x64xf32>, %k: tensor<64x2x64xf16>, %v: tensor<64x2x64xf16>, %n: tensor<1xi64>) -> tensor<2x64xf32> {
  %0 = hamkaas.attention %q, %k, %v length %n scale 1.000000e-01
    : (tensor<2x64xf32>, tensor<64x2x64xf16>, tensor<64x2x64xf16>, tensor<1xi64>) -> tensor<2x64xf32>
  hamkaas.yield %0 : tensor<2x64xf32>
}

// -----

// Heads that read the same keys share a block, where that leaves enough blocks: here two of four, with one load of each
// key for both.
// CLUSTER-LABEL: kernel.func @grouped
// CLUSTER-SAME: grid = 128 : i64, block = 256 : i64
// CLUSTER-SAME: cluster = 8 : i64
// CLUSTER-COUNT-2: kernel.load %q
// CLUSTER: scf.for
// CLUSTER-COUNT-4: kernel.load %k
// CLUSTER-NOT: kernel.load %k
// CLUSTER: scf.yield
hamkaas.group @grouped(%q: tensor<32x64xf32>, %k: tensor<2048x8x64xf32>, %v: tensor<2048x8x64xf32>, %n: tensor<1xi64>) -> tensor<32x64xf32> {
  %0 = hamkaas.attention %q, %k, %v length %n scale 1.000000e-01
    : (tensor<32x64xf32>, tensor<2048x8x64xf32>, tensor<2048x8x64xf32>, tensor<1xi64>) -> tensor<32x64xf32>
  hamkaas.yield %0 : tensor<32x64xf32>
}
