// RUN: hamkaas-opt %s -p hamkaas-widen-scales --split-input-file | filecheck %s

// All rows are read, and one of them.
// CHECK-LABEL: hamkaas.weight @w : tensor<6x8xi8>
// CHECK-NEXT: hamkaas.weight @s : tensor<6x2xf32>
// CHECK: %s = hamkaas.get @s : tensor<6x2xf32>
// CHECK-NEXT: hamkaas.dequantize %w, %s : (tensor<6x8xi8>, tensor<6x2xf32>) -> tensor<6x8xf32>
// CHECK: [[R:%.*]] = hamkaas.gather %s by %i : (tensor<6x2xf32>, tensor<1xi64>) -> tensor<1x2xf32>
// CHECK-NEXT: hamkaas.dequantize %{{.*}}, [[R]]
hamkaas.weight @w : tensor<6x8xi8>
hamkaas.weight @s : tensor<6x2xf16>
func.func @read(%i: tensor<1xi64>) -> (tensor<6x8xf32>, tensor<1x8xf32>) {
  %w = hamkaas.get @w : tensor<6x8xi8>
  %s = hamkaas.get @s : tensor<6x2xf16>
  %0 = hamkaas.dequantize %w, %s : (tensor<6x8xi8>, tensor<6x2xf16>) -> tensor<6x8xf32>
  %1 = hamkaas.gather %w by %i : (tensor<6x8xi8>, tensor<1xi64>) -> tensor<1x8xi8>
  %2 = hamkaas.gather %s by %i : (tensor<6x2xf16>, tensor<1xi64>) -> tensor<1x2xf16>
  %3 = hamkaas.dequantize %1, %2 : (tensor<1x8xi8>, tensor<1x2xf16>) -> tensor<1x8xf32>
  func.return %0, %3 : tensor<6x8xf32>, tensor<1x8xf32>
}

// -----

// What is more than scales stays as it is: another function returns it. So does a matrix of f16.
// CHECK-LABEL: hamkaas.weight @w : tensor<6x8xi8>
// CHECK-NEXT: hamkaas.weight @s : tensor<6x2xf16>
// CHECK-NEXT: hamkaas.weight @m : tensor<8x8xf16>
hamkaas.weight @w : tensor<6x8xi8>
hamkaas.weight @s : tensor<6x2xf16>
hamkaas.weight @m : tensor<8x8xf16>
func.func @read() -> tensor<6x8xf32> {
  %w = hamkaas.get @w : tensor<6x8xi8>
  %s = hamkaas.get @s : tensor<6x2xf16>
  %0 = hamkaas.dequantize %w, %s : (tensor<6x8xi8>, tensor<6x2xf16>) -> tensor<6x8xf32>
  func.return %0 : tensor<6x8xf32>
}
func.func @other() -> (tensor<6x2xf16>, tensor<8x8xf32>) {
  %s = hamkaas.get @s : tensor<6x2xf16>
  %m = hamkaas.get @m : tensor<8x8xf16>
  %0 = hamkaas.cast %m : (tensor<8x8xf16>) -> tensor<8x8xf32>
  func.return %s, %0 : tensor<6x2xf16>, tensor<8x8xf32>
}
