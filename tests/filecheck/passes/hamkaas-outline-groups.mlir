// RUN: hamkaas-opt %s -p hamkaas-outline-groups --split-input-file | filecheck %s
// RUN: hamkaas-opt %s -p 'hamkaas-outline-groups{max-ops=2}' --split-input-file | filecheck %s --check-prefix=SMALL
// RUN: hamkaas-opt %s -p 'hamkaas-outline-groups{copy-norms=true}' --split-input-file | filecheck %s --check-prefix=NORMS

// A matrix product takes its pointwise consumers with it, and the permute of its weight as an address.
// CHECK-LABEL: hamkaas.group @g0(
// CHECK-SAME: %w: tensor<4x8xf32>, %x: tensor<8xf32>, %y: tensor<4xf32>
// CHECK-SAME: label = "matmul relu add"
// CHECK-NEXT: hamkaas.permute %w axes [1, 0]
// CHECK-NEXT: [[P:%.*]] = hamkaas.matmul %x
// CHECK-NEXT: hamkaas.relu [[P]]
// CHECK-NEXT: hamkaas.add
// CHECK-NEXT: hamkaas.yield
// CHECK-LABEL: func.func @epilogue
// CHECK-NEXT: hamkaas.execute @g0(%w, %x, %y)
// CHECK-NEXT: func.return
// With at most two operations a group, the tree is cut; the order of execution follows.
// SMALL-LABEL: func.func @epilogue
// SMALL-COUNT-2: hamkaas.execute
func.func @epilogue(%x: tensor<8xf32>, %w: tensor<4x8xf32>, %y: tensor<4xf32>) -> tensor<4xf32> {
  %t = hamkaas.permute %w axes [1, 0] : (tensor<4x8xf32>) -> tensor<8x4xf32>
  %0 = hamkaas.matmul %x, %t : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  %1 = hamkaas.relu %0 : (tensor<4xf32>) -> tensor<4xf32>
  %2 = hamkaas.add %1, %y : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  func.return %2 : tensor<4xf32>
}

// -----

// The product is read by two groups, so it has to be stored: neither takes it.
// CHECK-LABEL: func.func @two_readers
// CHECK-NEXT: [[P:%.*]] = hamkaas.execute @g0(%x, %w)
// CHECK-NEXT: hamkaas.execute @g1([[P]])
// CHECK-NEXT: hamkaas.execute @g2([[P]])
func.func @two_readers(%x: tensor<8xf32>, %w: tensor<8x4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %0 = hamkaas.matmul %x, %w : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  %1 = hamkaas.relu %0 : (tensor<4xf32>) -> tensor<4xf32>
  %2 = hamkaas.silu %0 : (tensor<4xf32>) -> tensor<4xf32>
  func.return %1, %2 : tensor<4xf32>, tensor<4xf32>
}

// -----

// Both readers lead to the same result, element by element: the diamond is one group.
// CHECK-LABEL: func.func @diamond
// CHECK-NEXT: hamkaas.execute @g0(%x, %w)
// CHECK-NEXT: func.return
func.func @diamond(%x: tensor<8xf32>, %w: tensor<8x4xf32>) -> tensor<4xf32> {
  %0 = hamkaas.matmul %x, %w : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  %1 = hamkaas.relu %0 : (tensor<4xf32>) -> tensor<4xf32>
  %2 = hamkaas.mul %1, %0 : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  func.return %2 : tensor<4xf32>
}

// -----

// A slice drops elements of the product, so its elements cannot be followed to the result: two groups.
// CHECK-LABEL: func.func @sliced
// CHECK-NEXT: [[P:%.*]] = hamkaas.execute @g0(%x, %w)
// CHECK-NEXT: hamkaas.execute @g1([[P]])
func.func @sliced(%x: tensor<8xf32>, %w: tensor<8x4xf32>) -> tensor<2xf32> {
  %0 = hamkaas.matmul %x, %w : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  %1 = hamkaas.slice %0 from 1 to 3 : (tensor<4xf32>) -> tensor<2xf32>
  %2 = hamkaas.relu %1 : (tensor<2xf32>) -> tensor<2xf32>
  func.return %2 : tensor<2xf32>
}

// -----

// As the operand that broadcasts, one element of the product makes many of the result: two groups.
// CHECK-LABEL: func.func @broadcast
// CHECK-COUNT-2: hamkaas.execute
func.func @broadcast(%x: tensor<1x8xf32>, %w: tensor<8x4xf32>, %y: tensor<3x4xf32>) -> tensor<3x4xf32> {
  %0 = hamkaas.matmul %x, %w : (tensor<1x8xf32>, tensor<8x4xf32>) -> tensor<1x4xf32>
  %1 = hamkaas.add %y, %0 : (tensor<3x4xf32>, tensor<1x4xf32>) -> tensor<3x4xf32>
  func.return %1 : tensor<3x4xf32>
}

// -----

// Rotary embedding and the update of a cache follow the product through reshapes; the cache itself is an input.
// CHECK-LABEL: func.func @cache
// CHECK: hamkaas.execute @g0(
// CHECK-NEXT: hamkaas.set @keys
hamkaas.state @keys : tensor<16x2x4xf32>
func.func @cache(%x: tensor<8xf32>, %w: tensor<8x8xf32>, %r: tensor<1x2x2xf32>, %b: tensor<1xi64>, %e: tensor<1xi64>) {
  %old = hamkaas.get @keys : tensor<16x2x4xf32>
  %0 = hamkaas.matmul %x, %w : (tensor<8xf32>, tensor<8x8xf32>) -> tensor<8xf32>
  %1 = hamkaas.reshape %0 : (tensor<8xf32>) -> tensor<2x2x2xf32>
  %2 = hamkaas.complex_mul %1, %r : (tensor<2x2x2xf32>, tensor<1x2x2xf32>) -> tensor<2x2x2xf32>
  %3 = hamkaas.reshape %2 : (tensor<2x2x2xf32>) -> tensor<1x2x4xf32>
  %new = hamkaas.replace_slice %old, %3 from %b to %e
    : (tensor<16x2x4xf32>, tensor<1x2x4xf32>, tensor<1xi64>, tensor<1xi64>) -> tensor<16x2x4xf32>
  hamkaas.set @keys, %new : tensor<16x2x4xf32>
  func.return
}

// -----

// rms_norm reads its input twice only, so the sum is computed on the way in...
// CHECK-LABEL: func.func @producer_of_norm
// CHECK-NEXT: hamkaas.execute @g0(%x, %w)
// CHECK-NEXT: func.return
func.func @producer_of_norm(%x: tensor<8xf32>, %w: tensor<8xf32>) -> tensor<8xf32> {
  %0 = hamkaas.add %x, %w : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  %1 = hamkaas.rms_norm %0, %w eps 1.000000e-05 : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  func.return %1 : tensor<8xf32>
}

// -----

// ... but a product reads its left side once for each column, so it is stored.
// CHECK-LABEL: func.func @producer_of_product
// CHECK-COUNT-2: hamkaas.execute
func.func @producer_of_product(%x: tensor<8xf32>, %w: tensor<8x4xf32>) -> tensor<4xf32> {
  %0 = hamkaas.silu %x : (tensor<8xf32>) -> tensor<8xf32>
  %1 = hamkaas.matmul %0, %w : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  func.return %1 : tensor<4xf32>
}

// -----

// A row of a table is only an address: both readers look it up for themselves.
// CHECK-LABEL: func.func @gather
// CHECK-NEXT: hamkaas.execute @g0(%table, %i)
// CHECK-NEXT: hamkaas.execute @g1(%table, %i)
func.func @gather(%table: tensor<9x4xf32>, %i: tensor<1xi64>) -> (tensor<1x4xf32>, tensor<1x4xf32>) {
  %0 = hamkaas.gather %table by %i : (tensor<9x4xf32>, tensor<1xi64>) -> tensor<1x4xf32>
  %1 = hamkaas.relu %0 : (tensor<1x4xf32>) -> tensor<1x4xf32>
  %2 = hamkaas.silu %0 : (tensor<1x4xf32>) -> tensor<1x4xf32>
  func.return %1, %2 : tensor<1x4xf32>, tensor<1x4xf32>
}

// -----

// Read through two views, an operation would be computed twice, and what feeds it four times: it is stored.
// CHECK-LABEL: func.func @two_views
// CHECK-COUNT-2: hamkaas.execute
func.func @two_views(%x: tensor<8xf32>) -> tensor<7xf32> {
  %0 = hamkaas.silu %x : (tensor<8xf32>) -> tensor<8xf32>
  %1 = hamkaas.slice %0 from 0 to 7 : (tensor<8xf32>) -> tensor<7xf32>
  %2 = hamkaas.slice %0 from 1 to 8 : (tensor<8xf32>) -> tensor<7xf32>
  %3 = hamkaas.add %1, %2 : (tensor<7xf32>, tensor<7xf32>) -> tensor<7xf32>
  func.return %3 : tensor<7xf32>
}

// -----

// Two products of one vector that meet element by element run through the same loops.
// CHECK-LABEL: hamkaas.group @g0(
// CHECK-SAME: label = "matmul silu matmul mul"
// CHECK-LABEL: func.func @gate
// CHECK-COUNT-1: hamkaas.execute
// CHECK-NOT: hamkaas.execute
// CHECK: func.return
func.func @gate(%x: tensor<8xf32>, %w: tensor<8x4xf32>, %v: tensor<8x4xf32>) -> tensor<4xf32> {
  %0 = hamkaas.matmul %x, %w : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  %1 = hamkaas.silu %0 : (tensor<4xf32>) -> tensor<4xf32>
  %2 = hamkaas.matmul %x, %v : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  %3 = hamkaas.mul %1, %2 : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  func.return %3 : tensor<4xf32>
}

// -----

// Products of two vectors would need two sets of loops.
// CHECK-LABEL: func.func @two_vectors
// CHECK-COUNT-2: hamkaas.execute
func.func @two_vectors(%x: tensor<8xf32>, %y: tensor<8xf32>, %w: tensor<8x4xf32>) -> tensor<4xf32> {
  %0 = hamkaas.matmul %x, %w : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  %1 = hamkaas.matmul %y, %w : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  %2 = hamkaas.mul %0, %1 : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  func.return %2 : tensor<4xf32>
}

// -----

// The second product is transposed on the way: what meets is not the same element of both.
// CHECK-LABEL: func.func @transposed
// CHECK-COUNT-2: hamkaas.execute
func.func @transposed(%x: tensor<4x8xf32>, %w: tensor<8x4xf32>, %v: tensor<8x4xf32>) -> tensor<4x4xf32> {
  %0 = hamkaas.matmul %x, %w : (tensor<4x8xf32>, tensor<8x4xf32>) -> tensor<4x4xf32>
  %1 = hamkaas.matmul %x, %v : (tensor<4x8xf32>, tensor<8x4xf32>) -> tensor<4x4xf32>
  %2 = hamkaas.permute %1 axes [1, 0] : (tensor<4x4xf32>) -> tensor<4x4xf32>
  %3 = hamkaas.mul %0, %2 : (tensor<4x4xf32>, tensor<4x4xf32>) -> tensor<4x4xf32>
  func.return %3 : tensor<4x4xf32>
}

// -----

// With copied norms, each group of products normalizes its vector itself; else the norm is a group of its own.
// CHECK-LABEL: func.func @norm
// CHECK-COUNT-3: hamkaas.execute
// NORMS-LABEL: func.func @norm
// NORMS-NEXT: hamkaas.execute
// NORMS-NEXT: hamkaas.execute
// NORMS-NEXT: func.return
func.func @norm(%x: tensor<8xf32>, %g: tensor<8xf32>, %w: tensor<8x4xf32>, %v: tensor<8x2xf32>) -> (tensor<4xf32>, tensor<2xf32>) {
  %n = hamkaas.rms_norm %x, %g eps 1.000000e-05 : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  %0 = hamkaas.matmul %n, %w : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  %1 = hamkaas.matmul %n, %v : (tensor<8xf32>, tensor<8x2xf32>) -> tensor<2xf32>
  func.return %0, %1 : tensor<4xf32>, tensor<2xf32>
}

// -----

// The norm is returned too: it is computed once.
// NORMS-LABEL: func.func @norm_is_returned
// NORMS-COUNT-2: hamkaas.execute
func.func @norm_is_returned(%x: tensor<8xf32>, %g: tensor<8xf32>, %w: tensor<8x4xf32>) -> (tensor<4xf32>, tensor<8xf32>) {
  %n = hamkaas.rms_norm %x, %g eps 1.000000e-05 : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  %0 = hamkaas.matmul %n, %w : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  func.return %0, %n : tensor<4xf32>, tensor<8xf32>
}

// -----

// The base of an update is an argument of its own, also where the group reads it otherwise: elements may be read after
// others were written, so whoever schedules the group has to see both.
// CHECK-LABEL: hamkaas.group @g0(%s: tensor<8xf32>, %s_1: tensor<8xf32>)
// CHECK: hamkaas.replace_slice %s_1, %
// CHECK-LABEL: func.func @shifted
// CHECK-NEXT: hamkaas.execute @g0(%s, %s)
func.func @shifted(%s: tensor<8xf32>) -> tensor<8xf32> {
  %0 = hamkaas.slice %s from 0 to 4 : (tensor<8xf32>) -> tensor<4xf32>
  %1 = hamkaas.relu %0 : (tensor<4xf32>) -> tensor<4xf32>
  %b = hamkaas.constant 2 : i64 -> tensor<1xi64>
  %e = hamkaas.constant 6 : i64 -> tensor<1xi64>
  %2 = hamkaas.replace_slice %s, %1 from %b to %e : (tensor<8xf32>, tensor<4xf32>, tensor<1xi64>, tensor<1xi64>) -> tensor<8xf32>
  func.return %2 : tensor<8xf32>
}

// -----

// A weight of few bits becomes numbers inside of the product, in each product that reads it; what is computed does not.
// CHECK-LABEL: hamkaas.weight @w
// CHECK: hamkaas.group @g0({{.*}}label = "dequantize matmul"
// CHECK: hamkaas.group @g1({{.*}}label = "dequantize matmul"
// CHECK: hamkaas.group @g2({{.*}}label = "cast"
// CHECK-LABEL: func.func @quantized
// CHECK-NEXT: [[W:%.*]] = hamkaas.get @w
// CHECK-NEXT: [[S:%.*]] = hamkaas.get @s
// CHECK-NEXT: hamkaas.execute @g0([[W]], [[S]], %x)
// CHECK-NEXT: hamkaas.execute @g1([[W]], [[S]], %x)
// CHECK-NEXT: hamkaas.execute @g2(%h)
hamkaas.weight @w : tensor<4x8xi8>
hamkaas.weight @s : tensor<4x2xf32>
func.func @quantized(%x: tensor<8xf32>, %h: tensor<8x4xf16>) -> (tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) {
  %w = hamkaas.get @w : tensor<4x8xi8>
  %s = hamkaas.get @s : tensor<4x2xf32>
  %d = hamkaas.dequantize %w, %s : (tensor<4x8xi8>, tensor<4x2xf32>) -> tensor<4x8xf32>
  %t = hamkaas.permute %d axes [1, 0] : (tensor<4x8xf32>) -> tensor<8x4xf32>
  %0 = hamkaas.matmul %x, %t : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  %1 = hamkaas.matmul %x, %t : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  %c = hamkaas.cast %h : (tensor<8x4xf16>) -> tensor<8x4xf32>
  %2 = hamkaas.matmul %x, %c : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  func.return %0, %1, %2 : tensor<4xf32>, tensor<4xf32>, tensor<4xf32>
}
