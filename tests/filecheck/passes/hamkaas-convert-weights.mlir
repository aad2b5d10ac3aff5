// RUN: hamkaas-opt %s -p 'hamkaas-convert-weights{dtype=f16}' --split-input-file | filecheck %s
// RUN: hamkaas-opt %s -p 'hamkaas-convert-weights{dtype=i8 group=4}' --split-input-file | filecheck %s --check-prefix=BYTES
// RUN: hamkaas-opt %s -p 'hamkaas-convert-weights{dtype=f32}' --split-input-file | filecheck %s --check-prefix=SAME

// A matrix that products and gathers read is stored in fewer bits; a gather takes its rows before they become f32.
// CHECK-LABEL: hamkaas.weight @w : tensor<6x8xf16>
// CHECK: [[W:%.*]] = hamkaas.get @w : tensor<6x8xf16>
// CHECK-NEXT: [[F:%.*]] = hamkaas.cast [[W]]
// CHECK-NEXT: [[T:%.*]] = hamkaas.permute [[F]]
// CHECK-NEXT: hamkaas.matmul %x, [[T]]
// CHECK-NEXT: [[R:%.*]] = hamkaas.gather [[W]] by %i
// CHECK-NEXT: hamkaas.cast [[R]]
// BYTES-LABEL: hamkaas.weight @w : tensor<6x8xi8>
// BYTES-NEXT: hamkaas.weight @w.scales : tensor<6x2xf16>
// BYTES: [[W:%.*]] = hamkaas.get @w : tensor<6x8xi8>
// BYTES-NEXT: [[S:%.*]] = hamkaas.get @w.scales : tensor<6x2xf16>
// BYTES-NEXT: hamkaas.dequantize [[W]], [[S]]
// BYTES: [[R:%.*]] = hamkaas.gather [[W]] by %i
// BYTES-NEXT: [[G:%.*]] = hamkaas.gather [[S]] by %i
// BYTES-NEXT: hamkaas.dequantize [[R]], [[G]]
// SAME: hamkaas.weight @w : tensor<6x8xf32>
hamkaas.weight @w : tensor<6x8xf32>
func.func @read(%x: tensor<8xf32>, %i: tensor<1xi64>) -> (tensor<6xf32>, tensor<1x8xf32>) {
  %w = hamkaas.get @w : tensor<6x8xf32>
  %t = hamkaas.permute %w axes [1, 0] : (tensor<6x8xf32>) -> tensor<8x6xf32>
  %0 = hamkaas.matmul %x, %t : (tensor<8xf32>, tensor<8x6xf32>) -> tensor<6xf32>
  %1 = hamkaas.gather %w by %i : (tensor<6x8xf32>, tensor<1xi64>) -> tensor<1x8xf32>
  func.return %0, %1 : tensor<6xf32>, tensor<1x8xf32>
}

// -----

// Six is no multiple of four: the groups are of two.
// BYTES-LABEL: hamkaas.weight @w : tensor<4x6xi8>
// BYTES-NEXT: hamkaas.weight @w.scales : tensor<4x3xf16>
hamkaas.weight @w : tensor<4x6xf32>
func.func @uneven(%x: tensor<4xf32>) -> tensor<6xf32> {
  %w = hamkaas.get @w : tensor<4x6xf32>
  %0 = hamkaas.matmul %x, %w : (tensor<4xf32>, tensor<4x6xf32>) -> tensor<6xf32>
  func.return %0 : tensor<6xf32>
}

// -----

// The weight of a norm is no matrix, and the other one is added to something too: both stay f32.
// CHECK-LABEL: hamkaas.weight @g : tensor<8xf32>
// CHECK-NEXT: hamkaas.weight @w : tensor<8x8xf32>
// BYTES-LABEL: hamkaas.weight @g : tensor<8xf32>
// BYTES-NEXT: hamkaas.weight @w : tensor<8x8xf32>
hamkaas.weight @g : tensor<8xf32>
hamkaas.weight @w : tensor<8x8xf32>
func.func @others(%x: tensor<8x8xf32>) -> (tensor<8x8xf32>, tensor<8x8xf32>) {
  %g = hamkaas.get @g : tensor<8xf32>
  %w = hamkaas.get @w : tensor<8x8xf32>
  %0 = hamkaas.rms_norm %x, %g eps 1.000000e-05 : (tensor<8x8xf32>, tensor<8xf32>) -> tensor<8x8xf32>
  %1 = hamkaas.matmul %0, %w : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
  %2 = hamkaas.add %1, %w : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
  func.return %1, %2 : tensor<8x8xf32>, tensor<8x8xf32>
}
