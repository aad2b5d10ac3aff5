// RUN: hamkaas-opt %s --split-input-file --verify-diagnostics | filecheck %s

// CHECK: error: 'hamkaas.weight' does not verify: expected a tensor of rank 1 to 3, got tensor<2x2x2x2xf32>
hamkaas.weight @w : tensor<2x2x2x2xf32>

// -----

// CHECK: error: 'hamkaas.state' does not verify: expected a static shape with no empty axis, got tensor<0x2xf32>
hamkaas.state @s : tensor<0x2xf32>

// -----

// CHECK: error: 'hamkaas.weight' does not verify: expected elements of f32, f16, bf16, i8 or i64, got tensor<2xf64>
hamkaas.weight @w : tensor<2xf64>

// -----

// CHECK: error: 'hamkaas.constant' does not verify: expected a value of type f32, got 1 : i64
%0 = hamkaas.constant 1 : i64 -> tensor<2xf32>

// -----

// CHECK: error: 'hamkaas.add' does not verify: expected each axis of rhs to equal that of lhs or to be 1, got tensor<2x4xf32> and tensor<2x3xf32>
func.func @f(%x: tensor<2x4xf32>, %y: tensor<2x3xf32>) {
  %0 = hamkaas.add %x, %y : (tensor<2x4xf32>, tensor<2x3xf32>) -> tensor<2x4xf32>
  func.return
}

// -----

// Only the right side broadcasts.
// CHECK: error: 'hamkaas.mul' does not verify: expected each axis of rhs to equal that of lhs or to be 1, got tensor<1x4xf32> and tensor<2x4xf32>
func.func @f(%x: tensor<1x4xf32>, %y: tensor<2x4xf32>) {
  %0 = hamkaas.mul %x, %y : (tensor<1x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.add' does not verify: expected lhs and rhs of the same rank, got tensor<2x4xf32> and tensor<4xf32>
func.func @f(%x: tensor<2x4xf32>, %y: tensor<4xf32>) {
  %0 = hamkaas.add %x, %y : (tensor<2x4xf32>, tensor<4xf32>) -> tensor<2x4xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.add' does not verify: expected lhs and rhs to have one element type, got tensor<4xf32> and tensor<4xf16>
func.func @f(%x: tensor<4xf32>, %y: tensor<4xf16>) {
  %0 = hamkaas.add %x, %y : (tensor<4xf32>, tensor<4xf16>) -> tensor<4xf32>
  func.return
}

// -----

// Indices take part in no arithmetic and no view.
// CHECK: error: 'hamkaas.relu' does not verify: expected an input of f32, f16 or bf16, got tensor<4xi64>
func.func @f(%x: tensor<4xi64>) {
  %0 = hamkaas.relu %x : (tensor<4xi64>) -> tensor<4xi64>
  func.return
}

// -----

// CHECK: error: 'hamkaas.silu' does not verify: expected an input of f32, f16 or bf16, got tensor<4xi8>
func.func @f(%x: tensor<4xi8>) {
  %0 = hamkaas.silu %x : (tensor<4xi8>) -> tensor<4xi8>
  func.return
}

// -----

// CHECK: error: 'hamkaas.reshape' does not verify: expected an input of data, got indices: tensor<4xi64>
func.func @f(%x: tensor<4xi64>) {
  %0 = hamkaas.reshape %x : (tensor<4xi64>) -> tensor<2x2xi64>
  func.return
}

// -----

// CHECK: error: 'hamkaas.reshape' does not verify: expected as many elements as in tensor<6xf32>, got tensor<2x2xf32>
func.func @f(%x: tensor<6xf32>) {
  %0 = hamkaas.reshape %x : (tensor<6xf32>) -> tensor<2x2xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.permute' does not verify: expected axes to be a permutation of [0, 1], got [0, 0]
func.func @f(%x: tensor<2x3xf32>) {
  %0 = hamkaas.permute %x axes [0, 0] : (tensor<2x3xf32>) -> tensor<2x2xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.slice' does not verify: expected 0 <= begin < end <= 4, got begin 2 and end 2
func.func @f(%x: tensor<4xf32>) {
  %0 = hamkaas.slice %x from 2 to 2 : (tensor<4xf32>) -> tensor<1xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.complex_mul' does not verify: expected a last axis of 2 (re, im) on both sides, got tensor<4x3xf32> and tensor<4x2xf32>
func.func @f(%x: tensor<4x3xf32>, %y: tensor<4x2xf32>) {
  %0 = hamkaas.complex_mul %x, %y : (tensor<4x3xf32>, tensor<4x2xf32>) -> tensor<4x3xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.matmul' does not verify: expected lhs and rhs to agree on the inner axis, got tensor<4x8xf32> and tensor<7x2xf32>
func.func @f(%x: tensor<4x8xf32>, %y: tensor<7x2xf32>) {
  %0 = hamkaas.matmul %x, %y : (tensor<4x8xf32>, tensor<7x2xf32>) -> tensor<4x2xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.matmul' does not verify: expected ranks 1 and 2, 2 and 2, or 3 and 3, got tensor<2x4x8xf32> and tensor<8x2xf32>
func.func @f(%x: tensor<2x4x8xf32>, %y: tensor<8x2xf32>) {
  %0 = hamkaas.matmul %x, %y : (tensor<2x4x8xf32>, tensor<8x2xf32>) -> tensor<2x4x2xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.matmul' does not verify: expected lhs and rhs to agree on the batch axis, got tensor<2x4x8xf32> and tensor<3x8x2xf32>
func.func @f(%x: tensor<2x4x8xf32>, %y: tensor<3x8x2xf32>) {
  %0 = hamkaas.matmul %x, %y : (tensor<2x4x8xf32>, tensor<3x8x2xf32>) -> tensor<2x4x2xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.rms_norm' does not verify: expected a weight for the last axis of tensor<2x4xf32>, got tensor<2xf32>
func.func @f(%x: tensor<2x4xf32>, %w: tensor<2xf32>) {
  %0 = hamkaas.rms_norm %x, %w eps 1.000000e-05 : (tensor<2x4xf32>, tensor<2xf32>) -> tensor<2x4xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.rms_scale' does not verify: expected sums of type tensor<2x1xf32>, got tensor<2xf32>
func.func @f(%x: tensor<2x4xf32>, %w: tensor<4xf32>, %s: tensor<2xf32>) {
  %0 = hamkaas.rms_scale %x, %w by %s eps 1.000000e-05 : (tensor<2x4xf32>, tensor<4xf32>, tensor<2xf32>) -> tensor<2x4xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.sliced_softmax' does not verify: expected a prefix between 0 and 4, got 5
func.func @f(%x: tensor<4xf32>) {
  %n = hamkaas.constant 5 : i64 -> tensor<1xi64>
  %0 = hamkaas.sliced_softmax %x prefix %n : (tensor<4xf32>, tensor<1xi64>) -> tensor<4xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.sliced_softmax' does not verify: expected a prefix of type tensor<1xi64> or tensor<3xi64>, got tensor<2xi64>
func.func @f(%x: tensor<3x4xf32>, %n: tensor<2xi64>) {
  %0 = hamkaas.sliced_softmax %x prefix %n : (tensor<3x4xf32>, tensor<2xi64>) -> tensor<3x4xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.replace_slice' does not verify: expected end - begin to be the 2 rows of the replacement, got 4 - 1
func.func @f(%x: tensor<4x3xf32>, %y: tensor<2x3xf32>) {
  %b = hamkaas.constant 1 : i64 -> tensor<1xi64>
  %e = hamkaas.constant 4 : i64 -> tensor<1xi64>
  %0 = hamkaas.replace_slice %x, %y from %b to %e : (tensor<4x3xf32>, tensor<2x3xf32>, tensor<1xi64>, tensor<1xi64>) -> tensor<4x3xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.replace_slice' does not verify: expected a replacement that differs in its first axis only, got tensor<2x4xf32> for tensor<4x3xf32>
func.func @f(%x: tensor<4x3xf32>, %y: tensor<2x4xf32>, %b: tensor<1xi64>) {
  %0 = hamkaas.replace_slice %x, %y from %b to %b : (tensor<4x3xf32>, tensor<2x4xf32>, tensor<1xi64>, tensor<1xi64>) -> tensor<4x3xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.gather' does not verify: expected an index of type tensor<2xi64>, got tensor<2xf32>
func.func @f(%x: tensor<4x3xf32>, %i: tensor<2xf32>) {
  %0 = hamkaas.gather %x by %i : (tensor<4x3xf32>, tensor<2xf32>) -> tensor<2x3xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.argmax' does not verify: expected an input of rank 1 or 2, got tensor<2x2x2xf32>
func.func @f(%x: tensor<2x2x2xf32>) {
  %0 = hamkaas.argmax %x : (tensor<2x2x2xf32>) -> tensor<2x2xi64>
  func.return
}

// -----

// CHECK: error: 'hamkaas.attention' does not verify: expected keys and values [positions, kv_heads, 4] with kv_heads dividing 3, got tensor<9x2x4xf32> and tensor<9x2x4xf32>
func.func @f(%q: tensor<3x4xf32>, %k: tensor<9x2x4xf32>, %n: tensor<1xi64>) {
  %0 = hamkaas.attention %q, %k, %k length %n scale 5.000000e-01 : (tensor<3x4xf32>, tensor<9x2x4xf32>, tensor<9x2x4xf32>, tensor<1xi64>) -> tensor<3x4xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.dequantize' does not verify: expected scales to split the last axis into equal groups, got tensor<4x8xi8> and tensor<4x3xf32>
func.func @f(%v: tensor<4x8xi8>, %s: tensor<4x3xf32>) {
  %0 = hamkaas.dequantize %v, %s : (tensor<4x8xi8>, tensor<4x3xf32>) -> tensor<4x8xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.dequantize' does not verify: expected values of i8 and scales of f32 or f16, got tensor<4x8xi8> and tensor<4x2xbf16>
func.func @f(%v: tensor<4x8xi8>, %s: tensor<4x2xbf16>) {
  %0 = hamkaas.dequantize %v, %s : (tensor<4x8xi8>, tensor<4x2xbf16>) -> tensor<4x8xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.cast' does not verify: expected an input of data, got indices: tensor<4xi64>
func.func @f(%x: tensor<4xi64>) {
  %0 = hamkaas.cast %x : (tensor<4xi64>) -> tensor<4xf32>
  func.return
}

// -----

// CHECK: error: 'hamkaas.sample' does not verify: expected coin of type tensor<1xf32>, got tensor<2xf32>
func.func @f(%l: tensor<9xf32>, %t: tensor<1xf32>, %c: tensor<2xf32>) {
  %0 = hamkaas.sample %l temperature %t top_p %t coin %c : (tensor<9xf32>, tensor<1xf32>, tensor<1xf32>, tensor<2xf32>) -> tensor<1xi64>
  func.return
}

// -----

// CHECK: error: 'hamkaas.group' does not verify: expected to yield tensor<4xf32>, got tensor<4xf32>, tensor<4xf32>
hamkaas.group @g(%x: tensor<4xf32>) -> tensor<4xf32> {
  hamkaas.yield %x, %x : tensor<4xf32>, tensor<4xf32>
}

// -----

// CHECK: error: 'hamkaas.packed_weight' does not verify: expected the names of weights, got @k
hamkaas.weight @w : tensor<64x4xf32>
hamkaas.state @k : tensor<64x4xf32>
hamkaas.packed_weight @p : tensor<128x4xf32> of [@w, @k]

// -----

// CHECK: error: 'hamkaas.packed_weight' does not verify: expected each weight to be part of one only, got @w again
hamkaas.weight @w : tensor<64x4xf32>
hamkaas.packed_weight @p : tensor<128x4xf32> of [@w, @w]

// -----

// CHECK: error: 'hamkaas.packed_weight' does not verify: expected each weight to be part of one only, got @v again
hamkaas.weight @v : tensor<64x4xf32>
hamkaas.weight @w : tensor<64x4xf32>
hamkaas.packed_weight @p : tensor<128x4xf32> of [@w, @v]
hamkaas.packed_weight @q : tensor<64x4xf32> of [@v]

// -----

// CHECK: error: 'hamkaas.packed_weight' does not verify: expected parts whose rows are of one type, got tensor<64x4xf32>, tensor<64x4xf16>
hamkaas.weight @v : tensor<64x4xf32>
hamkaas.weight @w : tensor<64x4xf16>
hamkaas.packed_weight @p : tensor<128x4xf32> of [@v, @w]

// -----

// CHECK: error: 'hamkaas.packed_weight' does not verify: expected parts whose rows are of one type, got none
hamkaas.packed_weight @p : tensor<128x4xf32> of []

// -----

// CHECK: error: 'hamkaas.packed_weight' does not verify: expected parts that fill a multiple of 256 bytes, got tensor<5x4xf32>
hamkaas.weight @v : tensor<5x4xf32>
hamkaas.weight @w : tensor<64x4xf32>
hamkaas.packed_weight @p : tensor<69x4xf32> of [@v, @w]

// -----

// CHECK: error: 'hamkaas.packed_weight' does not verify: expected tensor<69x4xf32>, got tensor<64x4xf32>
hamkaas.weight @v : tensor<5x4xf32>
hamkaas.weight @w : tensor<64x4xf32>
hamkaas.packed_weight @p : tensor<64x4xf32> of [@w, @v]
