// RUN: hamkaas-opt %s -p 'cudnn-outline{policy=profitable}' --split-input-file --remarks 2>&1 | filecheck %s
// RUN: hamkaas-opt %s -p 'cudnn-outline{policy=all tf32=true}' --split-input-file --remarks 2>&1 | filecheck %s --check-prefix=ALL

// The gate of a feed-forward layer: silu and a product with a second tensor gain behind a matrix product.
// CHECK-LABEL: func.func @gate
// CHECK-NEXT: cudnn.execute @c0(%x, %w, %y)
// CHECK-NEXT: func.return
func.func @gate(%x: tensor<4x8xbf16>, %w: tensor<8x8xbf16>, %y: tensor<4x8xbf16>) -> tensor<4x8xbf16> {
  %p = hamkaas.matmul %x, %w : (tensor<4x8xbf16>, tensor<8x8xbf16>) -> tensor<4x8xbf16>
  %s = hamkaas.silu %p : (tensor<4x8xbf16>) -> tensor<4x8xbf16>
  %m = hamkaas.mul %s, %y : (tensor<4x8xbf16>, tensor<4x8xbf16>) -> tensor<4x8xbf16>
  func.return %m : tensor<4x8xbf16>
}

// -----

// A producer in front of the product loses.
// CHECK: remark: cudnn-outline: @prologue: hamkaas.relu %r: apart from its product: a prologue is slower than a kernel in front of the product
// CHECK-LABEL: func.func @prologue
// CHECK-NEXT: hamkaas.relu
// CHECK-NEXT: cudnn.execute
// ALL-LABEL: func.func @prologue
// ALL-NEXT: cudnn.execute @c0(%x, %w)
// ALL-NEXT: func.return
func.func @prologue(%x: tensor<4x8xbf16>, %w: tensor<8x8xbf16>) -> tensor<4x8xbf16> {
  %r = hamkaas.relu %x : (tensor<4x8xbf16>) -> tensor<4x8xbf16>
  %p = hamkaas.matmul %r, %w : (tensor<4x8xbf16>, tensor<8x8xbf16>) -> tensor<4x8xbf16>
  func.return %p : tensor<4x8xbf16>
}

// -----

// So does a lone bias.
// CHECK: remark: cudnn-outline: @lone_bias: hamkaas.add %a: apart from its product: additions alone are slower than cuBLAS and a kernel of ours
// CHECK-LABEL: func.func @lone_bias
// CHECK-NEXT: cudnn.execute @c0(%x, %w)
// CHECK-NEXT: hamkaas.add
// ALL-LABEL: func.func @lone_bias
// ALL-NEXT: cudnn.execute @c0(%x, %w, %b)
// ALL-NEXT: func.return
func.func @lone_bias(%x: tensor<4x8xbf16>, %w: tensor<8x8xbf16>, %b: tensor<1x8xbf16>) -> tensor<4x8xbf16> {
  %p = hamkaas.matmul %x, %w : (tensor<4x8xbf16>, tensor<8x8xbf16>) -> tensor<4x8xbf16>
  %a = hamkaas.add %p, %b : (tensor<4x8xbf16>, tensor<1x8xbf16>) -> tensor<4x8xbf16>
  func.return %a : tensor<4x8xbf16>
}

// -----

// A bias with something behind it does not: [1, 1, n] broadcasts along the rows.
// CHECK-LABEL: cudnn.graph @c0(
// CHECK-SAME: %b: !cudnn.tensor<[1, 1, 8], strides [8, 8, 1], bf16>
// CHECK-LABEL: func.func @bias
// CHECK-NEXT: cudnn.execute @c0(%x, %w, %b)
// CHECK-NEXT: func.return
func.func @bias(%x: tensor<4x8xbf16>, %w: tensor<8x8xbf16>, %b: tensor<1x8xbf16>) -> tensor<4x8xbf16> {
  %p = hamkaas.matmul %x, %w : (tensor<4x8xbf16>, tensor<8x8xbf16>) -> tensor<4x8xbf16>
  %a = hamkaas.add %p, %b : (tensor<4x8xbf16>, tensor<1x8xbf16>) -> tensor<4x8xbf16>
  %r = hamkaas.relu %a : (tensor<4x8xbf16>) -> tensor<4x8xbf16>
  func.return %r : tensor<4x8xbf16>
}

// -----

// The product is what broadcasts: each of its elements would be needed in many places.
// ALL: remark: cudnn-outline: @product_broadcasts: hamkaas.add %a: apart from its product: expected a result of shape [1, 8], got tensor<4x8xbf16>
// ALL-LABEL: func.func @product_broadcasts
// ALL-NEXT: [[P:%.*]] = cudnn.execute @c0(%x, %w)
// ALL-NEXT: cudnn.execute @c1(%y, [[P]])
func.func @product_broadcasts(%x: tensor<1x8xbf16>, %w: tensor<8x8xbf16>, %y: tensor<4x8xbf16>) -> tensor<4x8xbf16> {
  %p = hamkaas.matmul %x, %w : (tensor<1x8xbf16>, tensor<8x8xbf16>) -> tensor<1x8xbf16>
  %a = hamkaas.add %y, %p : (tensor<4x8xbf16>, tensor<1x8xbf16>) -> tensor<4x8xbf16>
  func.return %a : tensor<4x8xbf16>
}


// -----

// One row is left to our kernels, and so is what stands alone beside it.
// CHECK: remark: cudnn-outline: @one_row: hamkaas.matmul %p: expected at least 2 rows, got 1: our kernels fuse more and read as fast
// CHECK-NEXT: remark: cudnn-outline: @one_row: hamkaas.silu %s: pointwise operations alone gain nothing over a kernel of ours
// CHECK-LABEL: func.func @one_row
// CHECK-NEXT: hamkaas.matmul
// CHECK-NEXT: hamkaas.silu
// ALL-LABEL: func.func @one_row
// ALL-NEXT: cudnn.execute @c0(%x, %w)
// ALL-NEXT: func.return
func.func @one_row(%x: tensor<1x8xbf16>, %w: tensor<8x8xbf16>) -> tensor<1x8xbf16> {
  %p = hamkaas.matmul %x, %w : (tensor<1x8xbf16>, tensor<8x8xbf16>) -> tensor<1x8xbf16>
  %s = hamkaas.silu %p : (tensor<1x8xbf16>) -> tensor<1x8xbf16>
  func.return %s : tensor<1x8xbf16>
}

// -----

// A residual whose result is normed: the norm takes the sum, which is kept. To have the product give the sum and its row
// sums of squares, which leaves a scaling, was measured to be slower.
// CHECK-LABEL: cudnn.graph @c1(
// CHECK-NEXT: [[A:%.*]] = cudnn.pointwise add %y, %p
// CHECK-NEXT: [[N:%.*]] = cudnn.rmsnorm [[A]], %g
// CHECK-NEXT: cudnn.yield [[A]], [[N]]
// CHECK-LABEL: func.func @residual
// CHECK-NEXT: [[P:%.*]] = cudnn.execute @c0(%x, %w)
// CHECK-NEXT: [[A:%.*]], [[N:%.*]] = cudnn.execute @c1(%y, [[P]], %g)
// CHECK-NEXT: func.return [[N]], [[A]]
// ALL-LABEL: cudnn.graph @c0(
// ALL: [[A:%.*]] = cudnn.pointwise add %y, {{.*}} -> !cudnn.tensor<[1, 4, 64], strides [256, 64, 1], bf16>
// ALL-NEXT: [[S:%.*]] = cudnn.reduction sum_of_squares [[A]] {{.*}} -> !cudnn.tensor<[1, 4, 1], strides [4, 1, 4], f32>
// ALL-NEXT: cudnn.yield [[A]], [[S]]
// ALL-LABEL: func.func @residual
// ALL-NEXT: [[A:%.*]], [[S:%.*]] = cudnn.execute @c0(%x, %w, %y)
// ALL-NEXT: hamkaas.rms_scale [[A]], %g by [[S]]
// ALL-NEXT: func.return
func.func @residual(%x: tensor<4x8xbf16>, %w: tensor<8x64xbf16>, %y: tensor<4x64xbf16>, %g: tensor<64xf32>) -> (tensor<4x64xbf16>, tensor<4x64xbf16>) {
  %p = hamkaas.matmul %x, %w : (tensor<4x8xbf16>, tensor<8x64xbf16>) -> tensor<4x64xbf16>
  %a = hamkaas.add %y, %p : (tensor<4x64xbf16>, tensor<4x64xbf16>) -> tensor<4x64xbf16>
  %n = hamkaas.rms_norm %a, %g eps 1.000000e-05 : (tensor<4x64xbf16>, tensor<64xf32>) -> tensor<4x64xbf16>
  func.return %n, %a : tensor<4x64xbf16>, tensor<4x64xbf16>
}

// -----

// Casts are no operations: a value is read as what it is in memory, and stored as what it is cast to.
// CHECK-LABEL: cudnn.graph @c1(%x0: !cudnn.tensor<[1, 4, 64], strides [256, 64, 1], f32>, %p: !cudnn.tensor<[1, 4, 64], strides [256, 64, 1], bf16>
// CHECK-NEXT: [[A:%.*]] = cudnn.pointwise add %x0, %p {{.*}} -> !cudnn.tensor<[1, 4, 64], strides [256, 64, 1], f32>
// CHECK-NEXT: [[N:%.*]] = cudnn.rmsnorm [[A]], %g {{.*}} -> !cudnn.tensor<[1, 4, 64], strides [256, 64, 1], bf16>
// CHECK-NEXT: cudnn.yield [[A]], [[N]]
// CHECK-LABEL: func.func @casts
// CHECK-NEXT: [[P:%.*]] = cudnn.execute @c0(%x, %w)
// CHECK-NEXT: cudnn.execute @c1(%x0, [[P]], %g)
// CHECK-NEXT: func.return
func.func @casts(%x0: tensor<4x64xf32>, %x: tensor<4x8xbf16>, %w: tensor<8x64xbf16>, %g: tensor<64xf32>) -> (tensor<4x64xbf16>, tensor<4x64xf32>) {
  %p = hamkaas.matmul %x, %w : (tensor<4x8xbf16>, tensor<8x64xbf16>) -> tensor<4x64xbf16>
  %q = hamkaas.cast %p : (tensor<4x64xbf16>) -> tensor<4x64xf32>
  %a = hamkaas.add %x0, %q : (tensor<4x64xf32>, tensor<4x64xf32>) -> tensor<4x64xf32>
  %n = hamkaas.rms_norm %a, %g eps 1.000000e-05 : (tensor<4x64xf32>, tensor<64xf32>) -> tensor<4x64xf32>
  %h = hamkaas.cast %n : (tensor<4x64xf32>) -> tensor<4x64xbf16>
  func.return %h, %a : tensor<4x64xbf16>, tensor<4x64xf32>
}

// -----

// A cast is one where both of its sides are stored. One that widens stays with whoever reads it.
// CHECK: remark: cudnn-outline: @both: hamkaas.cast %q: apart from its product: whoever reads it reads fewer bytes
// CHECK-LABEL: cudnn.graph @c0(
// CHECK-NEXT: cudnn.matmul
// CHECK-NEXT: cudnn.yield
// CHECK-LABEL: func.func @both
// CHECK: [[P:%.*]] = cudnn.execute @c0(%x, %w)
// CHECK-NEXT: hamkaas.cast [[P]]
// ALL-LABEL: cudnn.graph @c0(%y:
// ALL: [[R:%.*]] = cudnn.pointwise relu %y {{.*}} -> !cudnn.tensor<[1, 4, 64], strides [256, 64, 1], f32>
// ALL-NEXT: [[H:%.*]] = cudnn.pointwise cast [[R]] {{.*}} -> !cudnn.tensor<[1, 4, 64], strides [256, 64, 1], bf16>
// ALL-NEXT: cudnn.yield [[R]], [[H]]
func.func @both(%x: tensor<4x8xbf16>, %w: tensor<8x64xbf16>, %y: tensor<4x64xf32>) -> (tensor<4x64xf32>, tensor<4x64xf32>, tensor<4x64xbf16>) {
  %r = hamkaas.relu %y : (tensor<4x64xf32>) -> tensor<4x64xf32>
  %h = hamkaas.cast %r : (tensor<4x64xf32>) -> tensor<4x64xbf16>
  %p = hamkaas.matmul %x, %w : (tensor<4x8xbf16>, tensor<8x64xbf16>) -> tensor<4x64xbf16>
  %q = hamkaas.cast %p : (tensor<4x64xbf16>) -> tensor<4x64xf32>
  func.return %q, %r, %h : tensor<4x64xf32>, tensor<4x64xf32>, tensor<4x64xbf16>
}

// -----

// A norm takes the sum in front of it, which is an output too. Alone in a function it is left to our kernels...
// CHECK: remark: cudnn-outline: @norm: hamkaas.add %a: its norm is left to our kernels: no product or attention goes to cuDNN
// CHECK-LABEL: func.func @norm
// CHECK-NEXT: hamkaas.add
// ALL-LABEL: cudnn.graph @c0(
// ALL-NEXT: [[A:%.*]] = cudnn.pointwise add %x, %y
// ALL-NEXT: [[N:%.*]] = cudnn.rmsnorm [[A]], %g
// ALL-NEXT: cudnn.yield [[A]], [[N]]
func.func @norm(%x: tensor<4x64xbf16>, %y: tensor<4x64xbf16>, %g: tensor<64xbf16>) -> (tensor<4x64xbf16>, tensor<4x64xbf16>) {
  %a = hamkaas.add %x, %y : (tensor<4x64xbf16>, tensor<4x64xbf16>) -> tensor<4x64xbf16>
  %n = hamkaas.rms_norm %a, %g eps 1.000000e-05 : (tensor<4x64xbf16>, tensor<64xbf16>) -> tensor<4x64xbf16>
  func.return %a, %n : tensor<4x64xbf16>, tensor<4x64xbf16>
}

// -----

// ... but not one that broadcasts...
// ALL: remark: cudnn-outline: @norm_of_bias: hamkaas.add %a: apart from its norm: the sum in front of a norm takes no operand that broadcasts
// ALL-LABEL: func.func @norm_of_bias
// ALL-NEXT: [[A:%.*]] = cudnn.execute @c0(%x, %y)
// ALL-NEXT: cudnn.execute @c1([[A]], %g)
func.func @norm_of_bias(%x: tensor<4x64xbf16>, %y: tensor<1x64xbf16>, %g: tensor<64xbf16>) -> tensor<4x64xbf16> {
  %a = hamkaas.add %x, %y : (tensor<4x64xbf16>, tensor<1x64xbf16>) -> tensor<4x64xbf16>
  %n = hamkaas.rms_norm %a, %g eps 1.000000e-05 : (tensor<4x64xbf16>, tensor<64xbf16>) -> tensor<4x64xbf16>
  func.return %n : tensor<4x64xbf16>
}

// -----

// ... and not for rows that no engine takes: 32 elements of bf16 are half of what it reads at once.
// ALL: remark: cudnn-outline: @short_rows: hamkaas.add %a: apart from its norm: a norm with neighbours has rows of a multiple of 128 bytes
// ALL-NEXT: remark: cudnn-outline: @short_rows: hamkaas.silu %s: apart from its norm: a norm with neighbours has rows of a multiple of 128 bytes
// ALL-LABEL: func.func @short_rows
// ALL-NEXT: [[A:%.*]] = cudnn.execute @c0(%x, %y)
// ALL-NEXT: [[N:%.*]] = cudnn.execute @c1([[A]], %g)
// ALL-NEXT: cudnn.execute @c2([[N]])
func.func @short_rows(%x: tensor<4x32xbf16>, %y: tensor<4x32xbf16>, %g: tensor<32xbf16>) -> tensor<4x32xbf16> {
  %a = hamkaas.add %x, %y : (tensor<4x32xbf16>, tensor<4x32xbf16>) -> tensor<4x32xbf16>
  %n = hamkaas.rms_norm %a, %g eps 1.000000e-05 : (tensor<4x32xbf16>, tensor<32xbf16>) -> tensor<4x32xbf16>
  %s = hamkaas.silu %n : (tensor<4x32xbf16>) -> tensor<4x32xbf16>
  func.return %s : tensor<4x32xbf16>
}

// -----

// Attention of one query: the cache is read in place, heads in front of positions, and the length on the device.
// CHECK-LABEL: cudnn.graph @c0(
// CHECK-SAME: %k: !cudnn.tensor<[2, 32, 16], strides [16, 32, 1], bf16>
// CHECK-SAME: %n: !cudnn.tensor<[1, 1, 1], strides [1, 1, 1], i32>
// CHECK: cudnn.sdpa %q, %k, %v length %n scale 2.500000e-01
// CHECK-LABEL: func.func @attention
// CHECK-NEXT: cudnn.execute @c0(%q, %k, %v, %n)
func.func @attention(%q: tensor<4x16xbf16>, %k: tensor<32x2x16xbf16>, %v: tensor<32x2x16xbf16>, %n: tensor<1xi64>) -> tensor<4x16xbf16> {
  %y = hamkaas.attention %q, %k, %v length %n scale 2.500000e-01 : (tensor<4x16xbf16>, tensor<32x2x16xbf16>, tensor<32x2x16xbf16>, tensor<1xi64>) -> tensor<4x16xbf16>
  func.return %y : tensor<4x16xbf16>
}

// -----

// A length for each of two queries is no mask that cuDNN has.
// CHECK: remark: cudnn-outline: @queries: hamkaas.attention %y: expected one query or causal ones: a length for each of several is no mask that cuDNN has
// CHECK-LABEL: func.func @queries
// CHECK-NEXT: hamkaas.attention
func.func @queries(%q: tensor<2x4x16xbf16>, %k: tensor<32x2x16xbf16>, %n: tensor<2xi64>) -> tensor<2x4x16xbf16> {
  %y = hamkaas.attention %q, %k, %k length %n scale 2.500000e-01 : (tensor<2x4x16xbf16>, tensor<32x2x16xbf16>, tensor<32x2x16xbf16>, tensor<2xi64>) -> tensor<2x4x16xbf16>
  func.return %y : tensor<2x4x16xbf16>
}

// -----

// One length for all is the causal mask: it needs the number of queries too, on the device.
// CHECK-LABEL: cudnn.graph @c0(
// CHECK: cudnn.sdpa %q, %k, %k_1 length %n rows {{%.*}} scale 2.500000e-01
// CHECK-LABEL: func.func @causal
// CHECK-NEXT: [[M:%.*]] = hamkaas.constant 2 : i64 -> tensor<1xi64>
// CHECK-NEXT: cudnn.execute @c0(%q, %k, %n, [[M]], %k)
func.func @causal(%q: tensor<2x4x16xbf16>, %k: tensor<32x2x16xbf16>, %n: tensor<1xi64>) -> tensor<2x4x16xbf16> {
  %y = hamkaas.attention %q, %k, %k length %n scale 2.500000e-01 : (tensor<2x4x16xbf16>, tensor<32x2x16xbf16>, tensor<32x2x16xbf16>, tensor<1xi64>) -> tensor<2x4x16xbf16>
  func.return %y : tensor<2x4x16xbf16>
}

// -----

// In f32 it is three times slower than ours; heads of 12 it has not.
// CHECK: remark: cudnn-outline: @slow: hamkaas.attention %y: cuDNN's attention in f32 is three times slower than ours
// CHECK-NEXT: remark: cudnn-outline: @slow: hamkaas.attention %z: expected heads of a multiple of 8 elements, got 12
// ALL-LABEL: func.func @slow
// ALL-NEXT: cudnn.execute
// ALL-NEXT: hamkaas.attention
func.func @slow(%q: tensor<4x16xf32>, %k: tensor<32x2x16xf32>, %n: tensor<1xi64>, %r: tensor<4x12xbf16>, %l: tensor<32x2x12xbf16>) -> (tensor<4x16xf32>, tensor<4x12xbf16>) {
  %y = hamkaas.attention %q, %k, %k length %n scale 2.500000e-01 : (tensor<4x16xf32>, tensor<32x2x16xf32>, tensor<32x2x16xf32>, tensor<1xi64>) -> tensor<4x16xf32>
  %z = hamkaas.attention %r, %l, %l length %n scale 2.500000e-01 : (tensor<4x12xbf16>, tensor<32x2x12xbf16>, tensor<32x2x12xbf16>, tensor<1xi64>) -> tensor<4x12xbf16>
  func.return %y, %z : tensor<4x16xf32>, tensor<4x12xbf16>
}

// -----

// Pointwise operations alone gain nothing.
// CHECK: remark: cudnn-outline: @pointwise: hamkaas.silu %s: pointwise operations alone gain nothing over a kernel of ours
// CHECK-LABEL: func.func @pointwise
// CHECK-NEXT: hamkaas.silu
// ALL-LABEL: func.func @pointwise
// ALL-NEXT: cudnn.execute @c0(%y)
// ALL-NEXT: cudnn.execute @c1(%x)
func.func @pointwise(%x: tensor<4x8xf32>, %y: tensor<4x8xf32>) -> (tensor<4x8xf32>, tensor<4x8xf32>) {
  %s = hamkaas.silu %y : (tensor<4x8xf32>) -> tensor<4x8xf32>
  %m = hamkaas.mul %s, %s : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
  %r = hamkaas.relu %x : (tensor<4x8xf32>) -> tensor<4x8xf32>
  func.return %m, %r : tensor<4x8xf32>, tensor<4x8xf32>
}

// -----

// An epilogue is unrolled, so it takes four silu and no more.
// CHECK: remark: cudnn-outline: @compile_time: hamkaas.silu %e: apart from its product: a region has at most 4 silu
// CHECK-LABEL: func.func @compile_time
// CHECK-NEXT: cudnn.execute @c0(
// CHECK-NEXT: hamkaas.silu
func.func @compile_time(%x: tensor<4x8xbf16>, %w: tensor<8x8xbf16>) -> tensor<4x8xbf16> {
  %p = hamkaas.matmul %x, %w : (tensor<4x8xbf16>, tensor<8x8xbf16>) -> tensor<4x8xbf16>
  %a = hamkaas.silu %p : (tensor<4x8xbf16>) -> tensor<4x8xbf16>
  %b = hamkaas.silu %a : (tensor<4x8xbf16>) -> tensor<4x8xbf16>
  %c = hamkaas.silu %b : (tensor<4x8xbf16>) -> tensor<4x8xbf16>
  %d = hamkaas.silu %c : (tensor<4x8xbf16>) -> tensor<4x8xbf16>
  %e = hamkaas.silu %d : (tensor<4x8xbf16>) -> tensor<4x8xbf16>
  func.return %e : tensor<4x8xbf16>
}
