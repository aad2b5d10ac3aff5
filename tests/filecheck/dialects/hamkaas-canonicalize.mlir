// RUN: hamkaas-opt %s -p canonicalize --split-input-file | filecheck %s

// CHECK-LABEL: func.func @relu_of_relu
// CHECK-NEXT: [[Y:%.*]] = hamkaas.relu %x
// CHECK-NEXT: func.return [[Y]]
func.func @relu_of_relu(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = hamkaas.relu %x : (tensor<4xf32>) -> tensor<4xf32>
  %1 = hamkaas.relu %0 : (tensor<4xf32>) -> tensor<4xf32>
  func.return %1 : tensor<4xf32>
}

// -----

// CHECK-LABEL: func.func @times_one
// CHECK-NEXT: func.return %x
func.func @times_one(%x: tensor<4xf32>) -> tensor<4xf32> {
  %one = hamkaas.constant 1.000000e+00 : f32 -> tensor<1xf32>
  %0 = hamkaas.mul %x, %one : (tensor<4xf32>, tensor<1xf32>) -> tensor<4xf32>
  func.return %0 : tensor<4xf32>
}

// -----

// x + 0 is not x: -0 + 0 is 0.
// CHECK-LABEL: func.func @plus_zero
// CHECK: hamkaas.add
func.func @plus_zero(%x: tensor<4xf32>) -> tensor<4xf32> {
  %zero = hamkaas.constant 0.000000e+00 : f32 -> tensor<1xf32>
  %0 = hamkaas.add %x, %zero : (tensor<4xf32>, tensor<1xf32>) -> tensor<4xf32>
  func.return %0 : tensor<4xf32>
}

// -----

// CHECK-LABEL: func.func @views
// CHECK-NEXT: hamkaas.reshape %x : (tensor<2x3x4xf32>) -> tensor<4x6xf32>
// CHECK-NEXT: hamkaas.permute %x axes [1, 2, 0]
// CHECK-NEXT: hamkaas.slice %y from 3 to 4
// CHECK-NEXT: func.return
func.func @views(%x: tensor<2x3x4xf32>, %y: tensor<8xf32>) -> (tensor<4x6xf32>, tensor<3x4x2xf32>, tensor<1xf32>) {
  %0 = hamkaas.reshape %x : (tensor<2x3x4xf32>) -> tensor<24xf32>
  %1 = hamkaas.reshape %0 : (tensor<24xf32>) -> tensor<4x6xf32>
  %2 = hamkaas.permute %x axes [2, 1, 0] : (tensor<2x3x4xf32>) -> tensor<4x3x2xf32>
  %3 = hamkaas.permute %2 axes [1, 0, 2] : (tensor<4x3x2xf32>) -> tensor<3x4x2xf32>
  %4 = hamkaas.slice %y from 2 to 6 : (tensor<8xf32>) -> tensor<4xf32>
  %5 = hamkaas.slice %4 from 1 to 2 : (tensor<4xf32>) -> tensor<1xf32>
  func.return %1, %3, %5 : tensor<4x6xf32>, tensor<3x4x2xf32>, tensor<1xf32>
}

// -----

// Views that change nothing, and casts that do not either, are gone.
// CHECK-LABEL: func.func @identities
// CHECK-NEXT: func.return %x, %x, %x, %x
func.func @identities(%x: tensor<2x3xf32>) -> (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>) {
  %0 = hamkaas.reshape %x : (tensor<2x3xf32>) -> tensor<2x3xf32>
  %1 = hamkaas.permute %x axes [0, 1] : (tensor<2x3xf32>) -> tensor<2x3xf32>
  %2 = hamkaas.slice %x from 0 to 2 : (tensor<2x3xf32>) -> tensor<2x3xf32>
  %3 = hamkaas.cast %x : (tensor<2x3xf32>) -> tensor<2x3xf32>
  func.return %0, %1, %2, %3 : tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>
}

// -----

// All rows are replaced at constant bounds, so the old ones do not matter; at bounds known later they might.
// CHECK-LABEL: func.func @replace_all
// CHECK-NEXT: [[R:%.*]] = hamkaas.replace_slice %x, %y from %b to %b
// CHECK-NEXT: func.return %y, [[R]]
func.func @replace_all(%x: tensor<2xf32>, %y: tensor<2xf32>, %b: tensor<1xi64>) -> (tensor<2xf32>, tensor<2xf32>) {
  %begin = hamkaas.constant 0 : i64 -> tensor<1xi64>
  %end = hamkaas.constant 2 : i64 -> tensor<1xi64>
  %0 = hamkaas.replace_slice %x, %y from %begin to %end : (tensor<2xf32>, tensor<2xf32>, tensor<1xi64>, tensor<1xi64>) -> tensor<2xf32>
  %1 = hamkaas.replace_slice %x, %y from %b to %b : (tensor<2xf32>, tensor<2xf32>, tensor<1xi64>, tensor<1xi64>) -> tensor<2xf32>
  func.return %0, %1 : tensor<2xf32>, tensor<2xf32>
}
