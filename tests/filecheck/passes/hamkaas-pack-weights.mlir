// RUN: hamkaas-opt %s -p 'cudnn-outline{policy=profitable},hamkaas-pack-weights' --split-input-file --remarks 2>&1 | filecheck %s
// RUN: hamkaas-opt %s -p 'cudnn-outline{policy=profitable},cudnn-dedup,hamkaas-pack-weights,cudnn-dedup,hamkaas-pack-weights' --split-input-file | filecheck %s --check-prefix=AGAIN

// Two products of one value become one, over weights that lie side by side; whoever reads them finds its columns.
// CHECK:      hamkaas.weight @wq : tensor<64x32xbf16>
// CHECK-NEXT: hamkaas.weight @wk : tensor<32x32xbf16>
// CHECK-NEXT: hamkaas.packed_weight @wq_wk : tensor<96x32xbf16> of [@wq, @wk]
// CHECK-NEXT: cudnn.graph @c0_c1(%{{.*}}: !cudnn.tensor<[1, 8, 32], strides [256, 32, 1], bf16>, %{{.*}}: !cudnn.tensor<[1, 32, 96], strides [3072, 1, 32], bf16>) -> !cudnn.tensor<[1, 8, 96], strides [768, 96, 1], bf16>
// CHECK-NOT:  cudnn.graph
// CHECK:      func.func @heads
// CHECK:      [[W:%.*]] = hamkaas.get @wq_wk : tensor<96x32xbf16>
// CHECK-NEXT: [[Y:%.*]] = cudnn.execute @c0_c1(%x, [[W]])
// CHECK-NEXT: [[T:%.*]] = hamkaas.permute [[Y]] axes [1, 0]
// CHECK-NEXT: [[Q:%.*]] = hamkaas.slice [[T]] from 0 to 64
// CHECK-NEXT: [[QT:%.*]] = hamkaas.permute [[Q]] axes [1, 0]
// CHECK-NEXT: hamkaas.reshape [[QT]]
// CHECK:      [[K:%.*]] = hamkaas.slice [[T]] from 64 to 96
// CHECK-NOT:  cudnn.execute
// CHECK:      func.return
// AGAIN-LABEL: func.func @heads
// AGAIN: cudnn.execute @c0(
// AGAIN-NOT: cudnn.execute
// AGAIN: func.return
hamkaas.weight @wq : tensor<64x32xbf16>
hamkaas.weight @wk : tensor<32x32xbf16>
func.func @heads(%x: tensor<8x32xbf16>, %a: tensor<8x32x2xbf16>, %b: tensor<8x16x2xbf16>) -> (tensor<8x32x2xbf16>, tensor<8x16x2xbf16>) {
  %wq = hamkaas.get @wq : tensor<64x32xbf16>
  %wk = hamkaas.get @wk : tensor<32x32xbf16>
  %tq = hamkaas.permute %wq axes [1, 0] : (tensor<64x32xbf16>) -> tensor<32x64xbf16>
  %tk = hamkaas.permute %wk axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %q = hamkaas.matmul %x, %tq : (tensor<8x32xbf16>, tensor<32x64xbf16>) -> tensor<8x64xbf16>
  %k = hamkaas.matmul %x, %tk : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %pq = hamkaas.reshape %q : (tensor<8x64xbf16>) -> tensor<8x32x2xbf16>
  %pk = hamkaas.reshape %k : (tensor<8x32xbf16>) -> tensor<8x16x2xbf16>
  %rq = hamkaas.complex_mul %pq, %a : (tensor<8x32x2xbf16>, tensor<8x32x2xbf16>) -> tensor<8x32x2xbf16>
  %rk = hamkaas.complex_mul %pk, %b : (tensor<8x16x2xbf16>, tensor<8x16x2xbf16>) -> tensor<8x16x2xbf16>
  func.return %rq, %rk : tensor<8x32x2xbf16>, tensor<8x16x2xbf16>
}

// -----

// An epilogue is worth more, and fills its own graph.
// CHECK-LABEL: func.func @epilogue
// CHECK-COUNT-2: cudnn.execute
// CHECK-NOT: hamkaas.slice %
// CHECK: func.return
hamkaas.weight @wq : tensor<32x32xbf16>
hamkaas.weight @wk : tensor<32x32xbf16>
func.func @epilogue(%x: tensor<8x32xbf16>, %n: tensor<1xi64>) -> tensor<8x32xbf16> {
  %wq = hamkaas.get @wq : tensor<32x32xbf16>
  %wk = hamkaas.get @wk : tensor<32x32xbf16>
  %tq = hamkaas.permute %wq axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %tk = hamkaas.permute %wk axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %q = hamkaas.matmul %x, %tq : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %k = hamkaas.matmul %x, %tk : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %s = hamkaas.silu %q : (tensor<8x32xbf16>) -> tensor<8x32xbf16>
  %m = hamkaas.mul %s, %k : (tensor<8x32xbf16>, tensor<8x32xbf16>) -> tensor<8x32xbf16>
  func.return %m : tensor<8x32xbf16>
}

// -----

// Products of two values have nothing in common.
// CHECK-LABEL: func.func @two_values
// CHECK-COUNT-2: cudnn.execute
// CHECK-NOT: hamkaas.slice %
// CHECK: func.return
hamkaas.weight @wq : tensor<32x32xbf16>
hamkaas.weight @wk : tensor<32x32xbf16>
func.func @two_values(%x: tensor<8x32xbf16>, %n: tensor<1xi64>, %y: tensor<8x32xbf16>) -> (tensor<8x32xbf16>, tensor<8x32xbf16>) {
  %wq = hamkaas.get @wq : tensor<32x32xbf16>
  %wk = hamkaas.get @wk : tensor<32x32xbf16>
  %tq = hamkaas.permute %wq axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %tk = hamkaas.permute %wk axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %q = hamkaas.matmul %x, %tq : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %k = hamkaas.matmul %y, %tk : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %sq = hamkaas.sliced_softmax %q prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  %sk = hamkaas.sliced_softmax %k prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  func.return %sq, %sk : tensor<8x32xbf16>, tensor<8x32xbf16>
}

// -----

// cuDNN reads whole tensors: what it reads next stays one.
// CHECK-LABEL: func.func @chain
// CHECK-COUNT-3: cudnn.execute
// CHECK-NOT: hamkaas.slice %
// CHECK: func.return
hamkaas.weight @wq : tensor<32x32xbf16>
hamkaas.weight @wk : tensor<32x32xbf16>
func.func @chain(%x: tensor<8x32xbf16>, %n: tensor<1xi64>) -> (tensor<8x32xbf16>, tensor<8x32xbf16>) {
  %wq = hamkaas.get @wq : tensor<32x32xbf16>
  %wk = hamkaas.get @wk : tensor<32x32xbf16>
  %tq = hamkaas.permute %wq axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %tk = hamkaas.permute %wk axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %q = hamkaas.matmul %x, %tq : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %k = hamkaas.matmul %x, %tk : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %p = hamkaas.matmul %q, %tk : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %sp = hamkaas.sliced_softmax %p prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  %sk = hamkaas.sliced_softmax %k prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  func.return %sp, %sk : tensor<8x32xbf16>, tensor<8x32xbf16>
}

// -----

// So does a result.
// CHECK-LABEL: func.func @result
// CHECK-COUNT-2: cudnn.execute
// CHECK-NOT: hamkaas.slice %
// CHECK: func.return
hamkaas.weight @wq : tensor<32x32xbf16>
hamkaas.weight @wk : tensor<32x32xbf16>
func.func @result(%x: tensor<8x32xbf16>, %n: tensor<1xi64>) -> (tensor<8x32xbf16>, tensor<8x32xbf16>) {
  %wq = hamkaas.get @wq : tensor<32x32xbf16>
  %wk = hamkaas.get @wk : tensor<32x32xbf16>
  %tq = hamkaas.permute %wq axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %tk = hamkaas.permute %wk axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %q = hamkaas.matmul %x, %tq : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %k = hamkaas.matmul %x, %tk : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %sk = hamkaas.sliced_softmax %k prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  func.return %q, %sk : tensor<8x32xbf16>, tensor<8x32xbf16>
}

// -----

// An input is no weight.
// CHECK-LABEL: func.func @input
// CHECK-COUNT-2: cudnn.execute
// CHECK-NOT: hamkaas.slice %
// CHECK: func.return
hamkaas.weight @wq : tensor<32x32xbf16>
hamkaas.weight @wk : tensor<32x32xbf16>
func.func @input(%x: tensor<8x32xbf16>, %n: tensor<1xi64>, %w: tensor<32x32xbf16>) -> (tensor<8x32xbf16>, tensor<8x32xbf16>) {
  %wq = hamkaas.get @wq : tensor<32x32xbf16>
  %wk = hamkaas.get @wk : tensor<32x32xbf16>
  %tq = hamkaas.permute %wq axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %tk = hamkaas.permute %wk axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %q = hamkaas.matmul %x, %tq : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %k = hamkaas.matmul %x, %w : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %sq = hamkaas.sliced_softmax %q prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  %sk = hamkaas.sliced_softmax %k prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  func.return %sq, %sk : tensor<8x32xbf16>, tensor<8x32xbf16>
}

// -----

// A weight that is stored [in, out] has its columns elsewhere.
// CHECK-LABEL: func.func @stored_otherwise
// CHECK-COUNT-2: cudnn.execute
// CHECK-NOT: hamkaas.slice %
// CHECK: func.return
hamkaas.weight @wq : tensor<32x32xbf16>
hamkaas.weight @wk : tensor<32x32xbf16>
func.func @stored_otherwise(%x: tensor<8x32xbf16>, %n: tensor<1xi64>) -> (tensor<8x32xbf16>, tensor<8x32xbf16>) {
  %wq = hamkaas.get @wq : tensor<32x32xbf16>
  %wk = hamkaas.get @wk : tensor<32x32xbf16>
  %tq = hamkaas.permute %wq axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %tk = hamkaas.permute %wk axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %q = hamkaas.matmul %x, %wq : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %k = hamkaas.matmul %x, %wk : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %sq = hamkaas.sliced_softmax %q prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  %sk = hamkaas.sliced_softmax %k prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  func.return %sq, %sk : tensor<8x32xbf16>, tensor<8x32xbf16>
}

// -----

// Where a weight ends, the next one must begin.
// CHECK: remark: hamkaas-pack-weights: @wq, @wk: stay apart: expected parts that fill a multiple of 256 bytes, got tensor<33x32xbf16>
// CHECK-LABEL: func.func @ragged
// CHECK-COUNT-2: cudnn.execute
// CHECK-NOT: hamkaas.slice %
// CHECK: func.return
hamkaas.weight @wq : tensor<33x32xbf16>
hamkaas.weight @wk : tensor<32x32xbf16>
func.func @ragged(%x: tensor<8x32xbf16>, %n: tensor<1xi64>) -> (tensor<8x33xbf16>, tensor<8x32xbf16>) {
  %wq = hamkaas.get @wq : tensor<33x32xbf16>
  %wk = hamkaas.get @wk : tensor<32x32xbf16>
  %tq = hamkaas.permute %wq axes [1, 0] : (tensor<33x32xbf16>) -> tensor<32x33xbf16>
  %tk = hamkaas.permute %wk axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %q = hamkaas.matmul %x, %tq : (tensor<8x32xbf16>, tensor<32x33xbf16>) -> tensor<8x33xbf16>
  %k = hamkaas.matmul %x, %tk : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %sq = hamkaas.sliced_softmax %q prefix %n : (tensor<8x33xbf16>, tensor<1xi64>) -> tensor<8x33xbf16>
  %sk = hamkaas.sliced_softmax %k prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  func.return %sq, %sk : tensor<8x33xbf16>, tensor<8x32xbf16>
}

// -----

// A weight lies in one place: in the second function @wk has another neighbour.
// CHECK: remark: hamkaas-pack-weights: @wv, @wk: stay apart: @wk is part of another product too
// CHECK: hamkaas.packed_weight @wq_wk
// CHECK-NOT: hamkaas.packed_weight
// CHECK-LABEL: func.func @first
// CHECK: cudnn.execute @c0_c1
// CHECK-NOT: cudnn.execute
// CHECK-LABEL: func.func @again
// CHECK: hamkaas.get @wq_wk
// CHECK: cudnn.execute @c2_c3
// CHECK-NOT: cudnn.execute
// CHECK-LABEL: func.func @second
// CHECK-COUNT-2: cudnn.execute
// AGAIN: hamkaas.packed_weight @wq_wk
// AGAIN-COUNT-2: cudnn.graph @
// AGAIN-NOT: cudnn.graph
// AGAIN-LABEL: func.func @first
// AGAIN: cudnn.execute
// AGAIN-NOT: cudnn.execute
// AGAIN-LABEL: func.func @again
// AGAIN: cudnn.execute
// AGAIN-NOT: cudnn.execute
// AGAIN-LABEL: func.func @second
// AGAIN-COUNT-2: cudnn.execute
hamkaas.weight @wq : tensor<32x32xbf16>
hamkaas.weight @wk : tensor<32x32xbf16>
hamkaas.weight @wv : tensor<32x32xbf16>
func.func @first(%x: tensor<8x32xbf16>, %n: tensor<1xi64>) -> (tensor<8x32xbf16>, tensor<8x32xbf16>) {
  %wq = hamkaas.get @wq : tensor<32x32xbf16>
  %wk = hamkaas.get @wk : tensor<32x32xbf16>
  %tq = hamkaas.permute %wq axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %tk = hamkaas.permute %wk axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %q = hamkaas.matmul %x, %tq : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %k = hamkaas.matmul %x, %tk : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %sq = hamkaas.sliced_softmax %q prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  %sk = hamkaas.sliced_softmax %k prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  func.return %sq, %sk : tensor<8x32xbf16>, tensor<8x32xbf16>
}
func.func @again(%x: tensor<8x32xbf16>, %n: tensor<1xi64>) -> (tensor<8x32xbf16>, tensor<8x32xbf16>) {
  %wq = hamkaas.get @wq : tensor<32x32xbf16>
  %wk = hamkaas.get @wk : tensor<32x32xbf16>
  %tq = hamkaas.permute %wq axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %tk = hamkaas.permute %wk axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %q = hamkaas.matmul %x, %tq : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %k = hamkaas.matmul %x, %tk : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %sq = hamkaas.sliced_softmax %q prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  %sk = hamkaas.sliced_softmax %k prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  func.return %sq, %sk : tensor<8x32xbf16>, tensor<8x32xbf16>
}
func.func @second(%x: tensor<8x32xbf16>, %n: tensor<1xi64>) -> (tensor<8x32xbf16>, tensor<8x32xbf16>) {
  %wq = hamkaas.get @wv : tensor<32x32xbf16>
  %wk = hamkaas.get @wk : tensor<32x32xbf16>
  %tq = hamkaas.permute %wq axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %tk = hamkaas.permute %wk axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %q = hamkaas.matmul %x, %tq : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %k = hamkaas.matmul %x, %tk : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %sq = hamkaas.sliced_softmax %q prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  %sk = hamkaas.sliced_softmax %k prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  func.return %sq, %sk : tensor<8x32xbf16>, tensor<8x32xbf16>
}

// -----

// One weight twice is one product, which is not looked for here.
// CHECK: remark: hamkaas-pack-weights: @wq, @wq: stay apart: @wq is part of another product too
// CHECK-LABEL: func.func @twice
// CHECK-COUNT-2: cudnn.execute
hamkaas.weight @wq : tensor<32x32xbf16>
hamkaas.weight @wk : tensor<32x32xbf16>
func.func @twice(%x: tensor<8x32xbf16>, %n: tensor<1xi64>) -> (tensor<8x32xbf16>, tensor<8x32xbf16>) {
  %wq = hamkaas.get @wq : tensor<32x32xbf16>
  %wk = hamkaas.get @wk : tensor<32x32xbf16>
  %tq = hamkaas.permute %wq axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %tk = hamkaas.permute %wk axes [1, 0] : (tensor<32x32xbf16>) -> tensor<32x32xbf16>
  %q = hamkaas.matmul %x, %tq : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %k = hamkaas.matmul %x, %tq : (tensor<8x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %sq = hamkaas.sliced_softmax %q prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  %sk = hamkaas.sliced_softmax %k prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  func.return %sq, %sk : tensor<8x32xbf16>, tensor<8x32xbf16>
}


// -----

// What is multiplied comes first, in the graph and so in its execution.
// CHECK-LABEL: func.func @turned_round
// CHECK-COUNT-2: cudnn.execute
// CHECK-NOT: hamkaas.slice %
// CHECK: func.return
hamkaas.weight @wq : tensor<32x32xbf16>
hamkaas.weight @wk : tensor<32x32xbf16>
cudnn.graph @g(%w: !cudnn.tensor<[1, 32, 32], strides [1024, 1, 32], bf16>, %x: !cudnn.tensor<[1, 8, 32], strides [256, 32, 1], bf16>) -> !cudnn.tensor<[1, 8, 32], strides [256, 32, 1], bf16> attributes {io = bf16, compute = f32} {
  %0 = cudnn.matmul %x, %w : (!cudnn.tensor<[1, 8, 32], strides [256, 32, 1], bf16>, !cudnn.tensor<[1, 32, 32], strides [1024, 1, 32], bf16>) -> !cudnn.tensor<[1, 8, 32], strides [256, 32, 1], bf16>
  cudnn.yield %0 : !cudnn.tensor<[1, 8, 32], strides [256, 32, 1], bf16>
}
func.func @turned_round(%w: tensor<32x32xbf16>, %n: tensor<1xi64>) -> (tensor<8x32xbf16>, tensor<8x32xbf16>) {
  %wq = hamkaas.get @wq : tensor<32x32xbf16>
  %wk = hamkaas.get @wk : tensor<32x32xbf16>
  %q = cudnn.execute @g(%w, %wq) : (tensor<32x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %k = cudnn.execute @g(%w, %wk) : (tensor<32x32xbf16>, tensor<32x32xbf16>) -> tensor<8x32xbf16>
  %sq = hamkaas.sliced_softmax %q prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  %sk = hamkaas.sliced_softmax %k prefix %n : (tensor<8x32xbf16>, tensor<1xi64>) -> tensor<8x32xbf16>
  func.return %sq, %sk : tensor<8x32xbf16>, tensor<8x32xbf16>
}
