// RUN: hamkaas-opt %s -p 'cudnn-outline{tf32=true}' --split-input-file --remarks 2>&1 | filecheck %s
// RUN: hamkaas-opt %s -p 'cudnn-outline{tf32=true max-nodes=2}' --split-input-file --remarks 2>&1 | filecheck %s --check-prefix=SMALL
// RUN: hamkaas-opt %s -p cudnn-outline --split-input-file --remarks 2>&1 | filecheck %s --check-prefix=EXACT

// Policy `lab`: a product takes the producers of its left side and the chain of its consumers.
// CHECK-LABEL: cudnn.graph @c0(
// CHECK-SAME: attributes {io = f32, compute = tf32}
// CHECK-NEXT: [[R:%.*]] = cudnn.pointwise relu %x
// CHECK-NEXT: [[P:%.*]] = cudnn.matmul [[R]], %w
// CHECK-NEXT: [[S:%.*]] = cudnn.pointwise silu [[P]]
// CHECK-NEXT: [[M:%.*]] = cudnn.pointwise mul [[S]], %y
// CHECK-NEXT: cudnn.yield [[M]]
// CHECK-LABEL: func.func @neighbours
// CHECK-NEXT: cudnn.execute @c0(%x, %w, %y)
// CHECK-NEXT: func.return
// No region has more operations than asked for.
// SMALL: remark: cudnn-outline: @neighbours: hamkaas.silu %s: apart from its product: a region has at most 2 operations
// SMALL-LABEL: func.func @neighbours
// SMALL-COUNT-2: cudnn.execute
// Products of f32 would be tf32: only where it was asked for. What stands around it is f32 and is taken.
// EXACT: remark: cudnn-outline: @neighbours: hamkaas.matmul %p: cuDNN computes products of f32 as tf32, which was not asked for (tf32=true)
// EXACT-LABEL: func.func @neighbours
// EXACT-NEXT: cudnn.execute @c0(%x)
// EXACT-NEXT: hamkaas.matmul
// EXACT-NEXT: cudnn.execute @c1(
func.func @neighbours(%x: tensor<4x8xf32>, %w: tensor<8x6xf32>, %y: tensor<4x6xf32>) -> tensor<4x6xf32> {
  %r = hamkaas.relu %x : (tensor<4x8xf32>) -> tensor<4x8xf32>
  %p = hamkaas.matmul %r, %w : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
  %s = hamkaas.silu %p : (tensor<4x6xf32>) -> tensor<4x6xf32>
  %m = hamkaas.mul %s, %y : (tensor<4x6xf32>, tensor<4x6xf32>) -> tensor<4x6xf32>
  func.return %m : tensor<4x6xf32>
}

// -----

// The producer is an output too, so it is stored anyway: cuDNN keeps what is in front of a product to itself.
// CHECK: remark: cudnn-outline: @read_twice: hamkaas.relu %r: apart from its product: a prologue can have no other reader
// CHECK-LABEL: func.func @read_twice
// CHECK-NEXT: [[R:%.*]] = cudnn.execute @c0(%x)
// CHECK-NEXT: cudnn.execute @c1([[R]], %w)
func.func @read_twice(%x: tensor<4x8xf32>, %w: tensor<8x6xf32>) -> (tensor<4x8xf32>, tensor<4x6xf32>) {
  %r = hamkaas.relu %x : (tensor<4x8xf32>) -> tensor<4x8xf32>
  %p = hamkaas.matmul %r, %w : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
  func.return %r, %p : tensor<4x8xf32>, tensor<4x6xf32>
}

// -----

// Only the first operand has producers: what feeds the right side is a region of its own.
// CHECK-LABEL: func.func @right_side
// CHECK-NEXT: [[R:%.*]] = cudnn.execute @c0(%w)
// CHECK-NEXT: cudnn.execute @c1(%x, [[R]])
func.func @right_side(%x: tensor<4x8xf32>, %w: tensor<8x6xf32>) -> tensor<4x6xf32> {
  %r = hamkaas.relu %w : (tensor<8x6xf32>) -> tensor<8x6xf32>
  %p = hamkaas.matmul %x, %r : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
  func.return %p : tensor<4x6xf32>
}

// -----

// Two readers end the chain: the product is stored, and the readers are a region of their own.
// CHECK: remark: cudnn-outline: @second_use: hamkaas.relu %r: apart from its product: it is not the only reader
// CHECK: remark: cudnn-outline: @second_use: hamkaas.silu %s: apart from its product: it is not the only reader
// CHECK-LABEL: func.func @second_use
// CHECK-NEXT: [[P:%.*]] = cudnn.execute @c0(%x, %w)
// CHECK-NEXT: cudnn.execute @c1([[P]])
// CHECK-NEXT: func.return
func.func @second_use(%x: tensor<4x8xf32>, %w: tensor<8x6xf32>) -> tensor<4x6xf32> {
  %p = hamkaas.matmul %x, %w : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
  %r = hamkaas.relu %p : (tensor<4x6xf32>) -> tensor<4x6xf32>
  %s = hamkaas.silu %p : (tensor<4x6xf32>) -> tensor<4x6xf32>
  %a = hamkaas.add %r, %s : (tensor<4x6xf32>, tensor<4x6xf32>) -> tensor<4x6xf32>
  func.return %a : tensor<4x6xf32>
}

// -----

// Both operands of the addition are the product: one reader.
// CHECK-LABEL: cudnn.graph @c0(
// CHECK-NEXT: [[P:%.*]] = cudnn.matmul %x, %w
// CHECK-NEXT: cudnn.pointwise add [[P]], [[P]]
func.func @twice_in_one(%x: tensor<4x8xf32>, %w: tensor<8x6xf32>) -> tensor<4x6xf32> {
  %p = hamkaas.matmul %x, %w : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
  %a = hamkaas.add %p, %p : (tensor<4x6xf32>, tensor<4x6xf32>) -> tensor<4x6xf32>
  func.return %a : tensor<4x6xf32>
}

// -----

// The addition can go with one of the two products only; the other one comes first.
// CHECK-LABEL: cudnn.graph @c0(
// CHECK-NEXT: cudnn.matmul %x, %w
// CHECK-NEXT: cudnn.pointwise add
// CHECK-LABEL: func.func @two_products
// CHECK-NEXT: [[Q:%.*]] = cudnn.execute @c1(%x, %v)
// CHECK-NEXT: cudnn.execute @c0(%x, %w, [[Q]])
func.func @two_products(%x: tensor<4x8xf32>, %w: tensor<8x6xf32>, %v: tensor<8x6xf32>) -> tensor<4x6xf32> {
  %p = hamkaas.matmul %x, %w : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
  %q = hamkaas.matmul %x, %v : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
  %a = hamkaas.add %p, %q : (tensor<4x6xf32>, tensor<4x6xf32>) -> tensor<4x6xf32>
  func.return %a : tensor<4x6xf32>
}

// -----

// A region of several outputs, one of them used inside too.
// CHECK-LABEL: cudnn.graph @c0(
// CHECK: cudnn.yield %{{.*}}, %{{.*}} :
// CHECK-LABEL: func.func @outputs
// CHECK-NEXT: cudnn.execute @c0(%x)
// CHECK-NEXT: func.return
func.func @outputs(%x: tensor<4x8xf32>) -> (tensor<4x8xf32>, tensor<4x8xf32>) {
  %r = hamkaas.relu %x : (tensor<4x8xf32>) -> tensor<4x8xf32>
  %s = hamkaas.silu %r : (tensor<4x8xf32>) -> tensor<4x8xf32>
  func.return %r, %s : tensor<4x8xf32>, tensor<4x8xf32>
}

// -----

// relu and add would go together, but what lies between them (softmax, which cuDNN has not) waits for the first and
// the second waits for it.
// CHECK: remark: cudnn-outline: @no_cycle: hamkaas.sliced_softmax %o: cuDNN has no such operation
// CHECK: remark: cudnn-outline: @no_cycle: hamkaas.add %a: apart from its pointwise: the region would wait for itself
// CHECK-LABEL: func.func @no_cycle
// CHECK: cudnn.execute @c0(%x)
// CHECK-NEXT: hamkaas.sliced_softmax
// CHECK-NEXT: cudnn.execute @c1(
func.func @no_cycle(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %n = hamkaas.constant 5 : i64 -> tensor<1xi64>
  %r = hamkaas.relu %x : (tensor<4x8xf32>) -> tensor<4x8xf32>
  %o = hamkaas.sliced_softmax %r prefix %n : (tensor<4x8xf32>, tensor<1xi64>) -> tensor<4x8xf32>
  %a = hamkaas.add %r, %o : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
  func.return %a : tensor<4x8xf32>
}

// -----

// Without the softmax between them they do.
// CHECK-LABEL: func.func @together
// CHECK-NEXT: cudnn.execute @c0(%x)
// CHECK-NEXT: func.return
func.func @together(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %r = hamkaas.relu %x : (tensor<4x8xf32>) -> tensor<4x8xf32>
  %a = hamkaas.add %r, %x : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
  func.return %a : tensor<4x8xf32>
}

// -----

// What the policy leaves alone: operands that broadcast, norms, sides of two types.
// CHECK: remark: cudnn-outline: @left: hamkaas.add %b: the policy takes no operand that broadcasts
// CHECK-NEXT: remark: cudnn-outline: @left: hamkaas.rms_norm %n: the policy leaves norms to our kernels
// CHECK-NEXT: remark: cudnn-outline: @left: hamkaas.matmul %p: expected both sides of one element type, got f32 and bf16
// CHECK-LABEL: func.func @left
// CHECK-NOT: cudnn
func.func @left(%x: tensor<4x8xf32>, %y: tensor<1x8xf32>, %w: tensor<8xf32>, %v: tensor<8x6xbf16>) -> tensor<4x6xf32> {
  %b = hamkaas.add %x, %y : (tensor<4x8xf32>, tensor<1x8xf32>) -> tensor<4x8xf32>
  %n = hamkaas.rms_norm %b, %w eps 1.000000e-05 : (tensor<4x8xf32>, tensor<8xf32>) -> tensor<4x8xf32>
  %p = hamkaas.matmul %n, %v : (tensor<4x8xf32>, tensor<8x6xbf16>) -> tensor<4x6xf32>
  func.return %p : tensor<4x6xf32>
}

// -----

// A value between two operations is of the type that it has in the graph: rounded there as anywhere else.
// CHECK-LABEL: cudnn.graph @c0(
// CHECK-SAME: attributes {io = bf16, compute = f32}
// CHECK-NEXT: cudnn.pointwise relu %x {{.*}} -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], bf16>
// CHECK-NEXT: cudnn.matmul {{.*}} -> !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], bf16>
// CHECK-NEXT: cudnn.pointwise silu {{.*}} -> !cudnn.tensor<[1, 4, 6], strides [24, 6, 1], bf16>
func.func @narrow(%x: tensor<4x8xbf16>, %w: tensor<8x6xbf16>) -> tensor<4x6xbf16> {
  %r = hamkaas.relu %x : (tensor<4x8xbf16>) -> tensor<4x8xbf16>
  %p = hamkaas.matmul %r, %w : (tensor<4x8xbf16>, tensor<8x6xbf16>) -> tensor<4x6xbf16>
  %s = hamkaas.silu %p : (tensor<4x6xbf16>) -> tensor<4x6xbf16>
  func.return %s : tensor<4x6xbf16>
}
