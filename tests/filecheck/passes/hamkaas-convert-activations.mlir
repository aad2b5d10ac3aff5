// RUN: hamkaas-opt %s -p 'hamkaas-convert-activations{dtype=bf16}' --split-input-file | filecheck %s
// RUN: hamkaas-opt %s -p 'hamkaas-convert-activations{dtype=tf32}' --split-input-file | filecheck %s --check-prefix=TF32

// Several rows meet a weight of 16 bits: they are rounded, and the result is f32 again. The permute is one of the weight.
// CHECK-LABEL: func.func @product
// CHECK: [[W:%.*]] = hamkaas.get @w
// CHECK: [[T:%.*]] = hamkaas.permute [[W]] axes [1, 0] : (tensor<16x8xbf16>) -> tensor<8x16xbf16>
// CHECK: [[X:%.*]] = hamkaas.cast %x : (tensor<4x8xf32>) -> tensor<4x8xbf16>
// CHECK: [[P:%.*]] = hamkaas.matmul [[X]], [[T]] : (tensor<4x8xbf16>, tensor<8x16xbf16>) -> tensor<4x16xbf16>
// CHECK: [[Y:%.*]] = hamkaas.cast [[P]] : (tensor<4x16xbf16>) -> tensor<4x16xf32>
// CHECK: func.return [[Y]]
// tf32 is rounding that cuDNN does by itself.
// TF32-LABEL: func.func @product
// TF32: hamkaas.matmul %x, {{.*}} : (tensor<4x8xf32>, tensor<8x16xf32>)
hamkaas.weight @w : tensor<16x8xbf16>
func.func @product(%x: tensor<4x8xf32>) -> tensor<4x16xf32> {
  %0 = hamkaas.get @w : tensor<16x8xbf16>
  %1 = hamkaas.cast %0 : (tensor<16x8xbf16>) -> tensor<16x8xf32>
  %w = hamkaas.permute %1 axes [1, 0] : (tensor<16x8xf32>) -> tensor<8x16xf32>
  %y = hamkaas.matmul %x, %w : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32>
  func.return %y : tensor<4x16xf32>
}

// -----

// One product after the other: what was widened is not rounded again, also behind a view.
// CHECK-LABEL: func.func @chain
// CHECK: [[P:%.*]] = hamkaas.matmul
// CHECK: [[R:%.*]] = hamkaas.reshape [[P]] : (tensor<4x8xbf16>) -> tensor<2x16xbf16>
// CHECK: hamkaas.matmul [[R]], {{.*}} : (tensor<2x16xbf16>, tensor<16x8xbf16>)
func.func @chain(%x: tensor<4x8xf32>, %0: tensor<8x8xbf16>, %1: tensor<16x8xbf16>) -> tensor<2x8xf32> {
  %w = hamkaas.cast %0 : (tensor<8x8xbf16>) -> tensor<8x8xf32>
  %v = hamkaas.cast %1 : (tensor<16x8xbf16>) -> tensor<16x8xf32>
  %p = hamkaas.matmul %x, %w : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
  %r = hamkaas.reshape %p : (tensor<4x8xf32>) -> tensor<2x16xf32>
  %y = hamkaas.matmul %r, %v : (tensor<2x16xf32>, tensor<16x8xf32>) -> tensor<2x8xf32>
  func.return %y : tensor<2x8xf32>
}

// -----

// Not where there is one row, a weight of another type, or a left side that is not f32.
// CHECK-LABEL: func.func @one_row
// CHECK: hamkaas.matmul %x, {{.*}} : (tensor<8xf32>, tensor<8x8xf32>)
// CHECK: hamkaas.matmul %y, {{.*}} : (tensor<1x8xf32>, tensor<8x8xf32>)
// CHECK: hamkaas.matmul %z, {{.*}} : (tensor<4x8xf32>, tensor<8x8xf32>)
// CHECK: hamkaas.matmul %h, {{.*}} : (tensor<4x8xf16>, tensor<8x8xf32>)
func.func @one_row(%x: tensor<8xf32>, %y: tensor<1x8xf32>, %z: tensor<4x8xf32>, %h: tensor<4x8xf16>, %0: tensor<8x8xbf16>, %1: tensor<8x8xf16>) -> (tensor<8xf32>, tensor<1x8xf32>, tensor<4x8xf32>, tensor<4x8xf16>) {
  %w = hamkaas.cast %0 : (tensor<8x8xbf16>) -> tensor<8x8xf32>
  %v = hamkaas.cast %1 : (tensor<8x8xf16>) -> tensor<8x8xf32>
  %a = hamkaas.matmul %x, %w : (tensor<8xf32>, tensor<8x8xf32>) -> tensor<8xf32>
  %b = hamkaas.matmul %y, %w : (tensor<1x8xf32>, tensor<8x8xf32>) -> tensor<1x8xf32>
  %c = hamkaas.matmul %z, %v : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
  %d = hamkaas.matmul %h, %w : (tensor<4x8xf16>, tensor<8x8xf32>) -> tensor<4x8xf16>
  func.return %a, %b, %c, %d : tensor<8xf32>, tensor<1x8xf32>, tensor<4x8xf32>, tensor<4x8xf16>
}

// -----

// Several queries meet a cache of 16 bits; a single one is left as it is.
// CHECK-LABEL: func.func @attention
// CHECK: [[Q:%.*]] = hamkaas.cast %q : (tensor<3x4x8xf32>) -> tensor<3x4x8xbf16>
// CHECK: [[A:%.*]] = hamkaas.attention [[Q]], %k, %k length %n scale 5.000000e-01
// CHECK: hamkaas.cast [[A]] : (tensor<3x4x8xbf16>) -> tensor<3x4x8xf32>
// CHECK: hamkaas.attention %one, %k, %k
func.func @attention(%q: tensor<3x4x8xf32>, %one: tensor<4x8xf32>, %k: tensor<16x2x8xbf16>, %n: tensor<1xi64>) -> (tensor<3x4x8xf32>, tensor<4x8xf32>) {
  %a = hamkaas.attention %q, %k, %k length %n scale 5.000000e-01 : (tensor<3x4x8xf32>, tensor<16x2x8xbf16>, tensor<16x2x8xbf16>, tensor<1xi64>) -> tensor<3x4x8xf32>
  %b = hamkaas.attention %one, %k, %k length %n scale 5.000000e-01 : (tensor<4x8xf32>, tensor<16x2x8xbf16>, tensor<16x2x8xbf16>, tensor<1xi64>) -> tensor<4x8xf32>
  func.return %a, %b : tensor<3x4x8xf32>, tensor<4x8xf32>
}
