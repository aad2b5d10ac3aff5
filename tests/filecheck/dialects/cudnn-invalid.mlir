// RUN: hamkaas-opt %s --split-input-file --verify-diagnostics | filecheck %s

// CHECK: error: expected 3 dims and 3 strides, got [4, 8] and [8, 1]
cudnn.graph @g(%x: !cudnn.tensor<[4, 8], strides [8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  cudnn.yield %x : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: expected dims of at least 1 and strides of at least 0, got [1, 0, 8] and [8, 8, 1]
cudnn.graph @g(%x: !cudnn.tensor<[1, 0, 8], strides [8, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  cudnn.yield %x : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// Rows and columns could not be told apart.
// CHECK: error: expected one of the inner strides to differ from 1, got [1, 4, 1] strides [4, 1, 1]
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 1], strides [4, 1, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  cudnn.yield %x : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: expected elements of f32, f16, bf16 or i32, got f64
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f64>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  cudnn.yield %x : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: 'cudnn.matmul' does not verify: expected lhs and rhs to have one element type, got !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> and !cudnn.tensor<[1, 8, 6], strides [48, 6, 1], bf16>
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, %w: !cudnn.tensor<[1, 8, 6], strides [48, 6, 1], bf16>) -> !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32> attributes {io = f32, compute = tf32} {
  %p = cudnn.matmul %x, %w : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 8, 6], strides [48, 6, 1], bf16>) -> !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32>
}

// -----

// CHECK: error: 'cudnn.matmul' does not verify: expected lhs and rhs to agree on the inner axis, got !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> and !cudnn.tensor<[1, 7, 6], strides [42, 6, 1], f32>
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, %w: !cudnn.tensor<[1, 7, 6], strides [42, 6, 1], f32>) -> !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32> attributes {io = f32, compute = tf32} {
  %p = cudnn.matmul %x, %w : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 7, 6], strides [42, 6, 1], f32>) -> !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32>
}

// -----

// CHECK: error: 'cudnn.matmul' does not verify: expected batches that agree or are 1, got !cudnn.tensor<[2, 4, 8], strides [32, 8, 1], f32> and !cudnn.tensor<[3, 8, 6], strides [48, 6, 1], f32>
cudnn.graph @g(%x: !cudnn.tensor<[2, 4, 8], strides [32, 8, 1], f32>, %w: !cudnn.tensor<[3, 8, 6], strides [48, 6, 1], f32>) -> !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32> attributes {io = f32, compute = tf32} {
  %p = cudnn.matmul %x, %w : (!cudnn.tensor<[2, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[3, 8, 6], strides [48, 6, 1], f32>) -> !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32>
}

// -----

// CHECK: error: 'cudnn.matmul' does not verify: expected lhs to have an inner stride of 1, got !cudnn.tensor<[1, 4, 8], strides [64, 16, 2], f32>
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [64, 16, 2], f32>, %w: !cudnn.tensor<[1, 8, 6], strides [48, 6, 1], f32>) -> !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32> attributes {io = f32, compute = tf32} {
  %p = cudnn.matmul %x, %w : (!cudnn.tensor<[1, 4, 8], strides [64, 16, 2], f32>, !cudnn.tensor<[1, 8, 6], strides [48, 6, 1], f32>) -> !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32>
}

// -----

// CHECK: error: 'cudnn.matmul' does not verify: expected a result with dims [1, 4, 6], got [1, 4, 8]
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, %w: !cudnn.tensor<[1, 8, 6], strides [48, 6, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = tf32} {
  %p = cudnn.matmul %x, %w : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 8, 6], strides [48, 6, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: 'cudnn.pointwise' does not verify: expected 2 operands of add, got 1
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %p = cudnn.pointwise add %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// A column and a row make a matrix only in the presence of one.
// CHECK: error: 'cudnn.pointwise' does not verify: expected one operand to broadcast to the dims of the other, got [1, 4, 1] and [1, 1, 8]
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 1], strides [4, 1, 4], f32>, %w: !cudnn.tensor<[1, 1, 8], strides [8, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %p = cudnn.pointwise add %x, %w : (!cudnn.tensor<[1, 4, 1], strides [4, 1, 4], f32>, !cudnn.tensor<[1, 1, 8], strides [8, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: 'cudnn.rmsnorm' does not verify: expected a weight with dims [1, 1, 8], got !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, %w: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %p = cudnn.rmsnorm %x, %w eps 1.000000e-05 : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: 'cudnn.reduction' does not verify: expected a sum in f32, got bf16
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 1], strides [4, 1, 4], bf16> attributes {io = f32, compute = f32} {
  %p = cudnn.reduction sum_of_squares %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 1], strides [4, 1, 4], bf16>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 1], strides [4, 1, 4], bf16>
}

// -----

// CHECK: error: 'cudnn.reduction' does not verify: expected a reduction to be an output only, got another use inside the graph
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %p = cudnn.reduction sum_of_squares %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 1], strides [4, 1, 4], f32>
  %q = cudnn.pointwise mul %x, %p : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 4, 1], strides [4, 1, 4], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %q : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: 'cudnn.sdpa' does not verify: expected keys and values [kv_heads, positions, 8] with kv_heads dividing 3, got !cudnn.tensor<[2, 9, 8], strides [8, 16, 1], bf16> and !cudnn.tensor<[2, 9, 8], strides [8, 16, 1], bf16>
cudnn.graph @g(%q: !cudnn.tensor<[3, 1, 8], strides [8, 8, 1], bf16>, %k: !cudnn.tensor<[2, 9, 8], strides [8, 16, 1], bf16>, %v: !cudnn.tensor<[2, 9, 8], strides [8, 16, 1], bf16>, %n: !cudnn.tensor<[1, 1, 1], strides [1, 1, 1], i32>) -> !cudnn.tensor<[3, 1, 8], strides [8, 8, 1], bf16> attributes {io = f32, compute = f32} {
  %p = cudnn.sdpa %q, %k, %v length %n scale 1.000000e+00 : (!cudnn.tensor<[3, 1, 8], strides [8, 8, 1], bf16>, !cudnn.tensor<[2, 9, 8], strides [8, 16, 1], bf16>, !cudnn.tensor<[2, 9, 8], strides [8, 16, 1], bf16>, !cudnn.tensor<[1, 1, 1], strides [1, 1, 1], i32>) -> !cudnn.tensor<[3, 1, 8], strides [8, 8, 1], bf16>
  cudnn.yield %p : !cudnn.tensor<[3, 1, 8], strides [8, 8, 1], bf16>
}

// -----

// CHECK: error: 'cudnn.sdpa' does not verify: expected heads of a multiple of 8 elements, got 4
cudnn.graph @g(%q: !cudnn.tensor<[4, 1, 4], strides [4, 4, 1], bf16>, %k: !cudnn.tensor<[2, 9, 4], strides [4, 8, 1], bf16>, %v: !cudnn.tensor<[2, 9, 4], strides [4, 8, 1], bf16>, %n: !cudnn.tensor<[1, 1, 1], strides [1, 1, 1], i32>) -> !cudnn.tensor<[4, 1, 4], strides [4, 4, 1], bf16> attributes {io = f32, compute = f32} {
  %p = cudnn.sdpa %q, %k, %v length %n scale 1.000000e+00 : (!cudnn.tensor<[4, 1, 4], strides [4, 4, 1], bf16>, !cudnn.tensor<[2, 9, 4], strides [4, 8, 1], bf16>, !cudnn.tensor<[2, 9, 4], strides [4, 8, 1], bf16>, !cudnn.tensor<[1, 1, 1], strides [1, 1, 1], i32>) -> !cudnn.tensor<[4, 1, 4], strides [4, 4, 1], bf16>
  cudnn.yield %p : !cudnn.tensor<[4, 1, 4], strides [4, 4, 1], bf16>
}

// -----

// CHECK: error: 'cudnn.sdpa' does not verify: expected keys with a last stride of 1, got !cudnn.tensor<[2, 9, 8], strides [72, 1, 9], bf16>
cudnn.graph @g(%q: !cudnn.tensor<[2, 1, 8], strides [8, 8, 1], bf16>, %k: !cudnn.tensor<[2, 9, 8], strides [72, 1, 9], bf16>, %v: !cudnn.tensor<[2, 9, 8], strides [72, 1, 9], bf16>, %n: !cudnn.tensor<[1, 1, 1], strides [1, 1, 1], i32>) -> !cudnn.tensor<[2, 1, 8], strides [8, 8, 1], bf16> attributes {io = f32, compute = f32} {
  %p = cudnn.sdpa %q, %k, %v length %n scale 1.000000e+00 : (!cudnn.tensor<[2, 1, 8], strides [8, 8, 1], bf16>, !cudnn.tensor<[2, 9, 8], strides [72, 1, 9], bf16>, !cudnn.tensor<[2, 9, 8], strides [72, 1, 9], bf16>, !cudnn.tensor<[1, 1, 1], strides [1, 1, 1], i32>) -> !cudnn.tensor<[2, 1, 8], strides [8, 8, 1], bf16>
  cudnn.yield %p : !cudnn.tensor<[2, 1, 8], strides [8, 8, 1], bf16>
}

// -----

// CHECK: error: 'cudnn.sdpa' does not verify: expected one length of i32, got !cudnn.tensor<[1, 1, 1], strides [1, 1, 1], f32>
cudnn.graph @g(%q: !cudnn.tensor<[2, 1, 8], strides [8, 8, 1], bf16>, %k: !cudnn.tensor<[2, 9, 8], strides [8, 16, 1], bf16>, %v: !cudnn.tensor<[2, 9, 8], strides [8, 16, 1], bf16>, %n: !cudnn.tensor<[1, 1, 1], strides [1, 1, 1], f32>) -> !cudnn.tensor<[2, 1, 8], strides [8, 8, 1], bf16> attributes {io = f32, compute = f32} {
  %p = cudnn.sdpa %q, %k, %v length %n scale 1.000000e+00 : (!cudnn.tensor<[2, 1, 8], strides [8, 8, 1], bf16>, !cudnn.tensor<[2, 9, 8], strides [8, 16, 1], bf16>, !cudnn.tensor<[2, 9, 8], strides [8, 16, 1], bf16>, !cudnn.tensor<[1, 1, 1], strides [1, 1, 1], f32>) -> !cudnn.tensor<[2, 1, 8], strides [8, 8, 1], bf16>
  cudnn.yield %p : !cudnn.tensor<[2, 1, 8], strides [8, 8, 1], bf16>
}

// -----

// CHECK: error: 'cudnn.graph' does not verify: expected operations of cudnn only, got hamkaas.weight
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %p = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  hamkaas.weight @w : tensor<4xf32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: 'cudnn.graph' does not verify: expected the body to end in cudnn.yield
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %p = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: 'cudnn.graph' does not verify: expected to yield !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32>, got !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32> attributes {io = f32, compute = f32} {
  %p = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: 'cudnn.graph' does not verify: expected to yield values that the graph computes, got none or an argument
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  cudnn.yield %x : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: 'cudnn.graph' does not verify: expected to yield each value once, got one twice
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) attributes {io = f32, compute = f32} {
  %p = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %p, %p : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: 'cudnn.graph' does not verify: expected every argument to be used, got one that is not
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, %z: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %p = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: 'cudnn.graph' does not verify: expected products of f32 to be computed in tf32, got f32
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, %w: !cudnn.tensor<[1, 8, 6], strides [48, 6, 1], f32>) -> !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32> attributes {io = f32, compute = f32} {
  %p = cudnn.matmul %x, %w : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 8, 6], strides [48, 6, 1], f32>) -> !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], f32>
}

// -----

// CHECK: error: 'cudnn.graph' does not verify: expected no product to be computed from another, got two in a row
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, %w: !cudnn.tensor<[1, 8, 8], strides [64, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = tf32} {
  %p = cudnn.matmul %x, %w : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 8, 8], strides [64, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  %q = cudnn.matmul %p, %w : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 8, 8], strides [64, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %q : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: 'cudnn.graph' does not verify: expected one product where operations stand in front of it, got 2 products
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, %w: !cudnn.tensor<[1, 8, 8], strides [64, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = tf32} {
  %r = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  %p = cudnn.matmul %r, %w : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 8, 8], strides [64, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  %q = cudnn.matmul %x, %w : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 8, 8], strides [64, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  %s = cudnn.pointwise add %p, %q : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %s : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: 'cudnn.graph' does not verify: expected cudnn.pointwise to be read in front of the product only, got another use
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, %w: !cudnn.tensor<[1, 8, 8], strides [64, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = tf32} {
  %r = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  %p = cudnn.matmul %r, %w : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 8, 8], strides [64, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  %s = cudnn.pointwise add %p, %r : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %s : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: 'cudnn.graph' does not verify: expected at most one norm, attention or product, got cudnn.rmsnorm, cudnn.matmul
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, %w: !cudnn.tensor<[1, 8, 8], strides [64, 8, 1], f32>, %c: !cudnn.tensor<[1, 1, 8], strides [8, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = tf32} {
  %p = cudnn.matmul %x, %w : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 8, 8], strides [64, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  %s = cudnn.rmsnorm %p, %c eps 1.000000e-05 : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 1, 8], strides [8, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %s : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}

// -----

// CHECK: error: 'cudnn.graph' does not verify: expected cudnn.pointwise to read different arguments, got one twice
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], bf16>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], bf16> attributes {io = bf16, compute = f32} {
  %s = cudnn.pointwise add %x, %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], bf16>, !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], bf16>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], bf16>
  cudnn.yield %s : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], bf16>
}

// -----

// CHECK: error: 'cudnn.execute' does not verify: expected the name of a cudnn.graph, got @other
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %p = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}
func.func @main(%x0: tensor<4x8xf32>) {
  %0 = cudnn.execute @other(%x0) : (tensor<4x8xf32>) -> tensor<4x8xf32>
  func.return
}

// -----

// CHECK: error: 'cudnn.execute' does not verify: expected (1, 1, 1) inputs, offsets and outputs, got (2, 2, 1)
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %p = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}
func.func @main(%x0: tensor<4x8xf32>, %x1: tensor<4x8xf32>) {
  %0 = cudnn.execute @g(%x0, %x1) : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
  func.return
}

// -----

// CHECK: error: 'cudnn.execute' does not verify: expected elements of f32, got tensor<4x8xbf16>
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %p = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}
func.func @main(%x0: tensor<4x8xbf16>) {
  %0 = cudnn.execute @g(%x0) : (tensor<4x8xbf16>) -> tensor<4x8xf32>
  func.return
}

// -----

// CHECK: error: 'cudnn.execute' does not verify: expected !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> to lie in the 40 elements of tensor<5x8xf32>, got offset 16
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %p = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}
func.func @main(%x0: tensor<5x8xf32>) {
  %0 = cudnn.execute @g(%x0) offsets [16] : (tensor<5x8xf32>) -> tensor<4x8xf32>
  func.return
}

// -----

// CHECK: error: 'cudnn.execute' does not verify: expected an input to start at a multiple of 16 bytes, got offset 2
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %p = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}
func.func @main(%x0: tensor<5x8xf32>) {
  %0 = cudnn.execute @g(%x0) offsets [2] : (tensor<5x8xf32>) -> tensor<4x8xf32>
  func.return
}

// -----

// CHECK: error: 'cudnn.execute' does not verify: expected an output that !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> fills, got tensor<4x9xf32>
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %p = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %p : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}
func.func @main(%x0: tensor<4x8xf32>) {
  %0 = cudnn.execute @g(%x0) : (tensor<4x8xf32>) -> tensor<4x9xf32>
  func.return
}
