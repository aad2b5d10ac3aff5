// RUN: hamkaas-opt %s -p 'cudnn-outline{tf32=true}' --split-input-file --remarks 2>&1 | filecheck %s

// A transposed weight is strides.
// CHECK-LABEL: cudnn.graph @c0(
// CHECK-SAME: %w: !cudnn.tensor<[1, 8, 6], strides [48, 1, 8], f32>
// CHECK-LABEL: func.func @transposed
// CHECK-NEXT: cudnn.execute @c0(%x, %w)
func.func @transposed(%x: tensor<4x8xf32>, %w: tensor<6x8xf32>) -> tensor<4x6xf32> {
  %t = hamkaas.permute %w axes [1, 0] : (tensor<6x8xf32>) -> tensor<8x6xf32>
  %p = hamkaas.matmul %x, %t : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
  func.return %p : tensor<4x6xf32>
}

// -----

// A pointwise operation reads rows: it would transpose, which no engine does.
// CHECK: remark: cudnn-outline: @transposed_rows: hamkaas.permute %t: stays a copy: a pointwise operation reads rows of neighbours
// CHECK-LABEL: func.func @transposed_rows
// CHECK-NEXT: [[T:%.*]] = hamkaas.permute %x
// CHECK-NEXT: cudnn.execute @c0([[T]])
func.func @transposed_rows(%x: tensor<4x8xf32>) -> tensor<8x4xf32> {
  %t = hamkaas.permute %x axes [1, 0] : (tensor<4x8xf32>) -> tensor<8x4xf32>
  %r = hamkaas.relu %t : (tensor<8x4xf32>) -> tensor<8x4xf32>
  func.return %r : tensor<8x4xf32>
}

// -----

// A slice is an offset...
// CHECK-LABEL: func.func @slice
// CHECK-NEXT: cudnn.execute @c0(%x) offsets [8] : (tensor<5x4xf32>) -> tensor<3x4xf32>
func.func @slice(%x: tensor<5x4xf32>) -> tensor<3x4xf32> {
  %s = hamkaas.slice %x from 2 to 5 : (tensor<5x4xf32>) -> tensor<3x4xf32>
  %r = hamkaas.relu %s : (tensor<3x4xf32>) -> tensor<3x4xf32>
  func.return %r : tensor<3x4xf32>
}

// -----

// ... if it starts where vector loads may.
// CHECK: remark: cudnn-outline: @odd_slice: hamkaas.slice %s: stays a copy: expected a start at a multiple of 16 bytes, got 24
// CHECK-LABEL: func.func @odd_slice
// CHECK-NEXT: hamkaas.slice
// CHECK-NEXT: cudnn.execute @c0(%s) :
func.func @odd_slice(%x: tensor<5x3xf32>) -> tensor<3x3xf32> {
  %s = hamkaas.slice %x from 2 to 5 : (tensor<5x3xf32>) -> tensor<3x3xf32>
  %r = hamkaas.relu %s : (tensor<3x3xf32>) -> tensor<3x3xf32>
  func.return %r : tensor<3x3xf32>
}

// -----

// Heads in front of positions: a reshape and a permute of a cache are strides of a batched product.
// CHECK-LABEL: cudnn.graph @c0(
// CHECK-SAME: %k: !cudnn.tensor<[2, 8, 6], strides [8, 1, 16], f32>
// CHECK-LABEL: func.func @heads
// CHECK-NEXT: cudnn.execute @c0(%q, %k)
func.func @heads(%q: tensor<2x3x8xf32>, %k: tensor<6x16xf32>) -> tensor<2x3x6xf32> {
  %r = hamkaas.reshape %k : (tensor<6x16xf32>) -> tensor<6x2x8xf32>
  %t = hamkaas.permute %r axes [1, 2, 0] : (tensor<6x2x8xf32>) -> tensor<2x8x6xf32>
  %p = hamkaas.matmul %q, %t : (tensor<2x3x8xf32>, tensor<2x8x6xf32>) -> tensor<2x3x6xf32>
  func.return %p : tensor<2x3x6xf32>
}

// -----

// Rows of a transposed tensor under another shape are no strides at all; the transpose itself is copied.
// CHECK: remark: cudnn-outline: @no_strides: hamkaas.permute %t: stays a copy: no strides say it
// CHECK-LABEL: func.func @no_strides
// CHECK-NEXT: hamkaas.permute
// CHECK-NEXT: cudnn.execute @c0(
func.func @no_strides(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %t = hamkaas.permute %x axes [1, 0] : (tensor<4x8xf32>) -> tensor<8x4xf32>
  %r = hamkaas.reshape %t : (tensor<8x4xf32>) -> tensor<4x8xf32>
  %y = hamkaas.relu %r : (tensor<4x8xf32>) -> tensor<4x8xf32>
  func.return %y : tensor<4x8xf32>
}

// -----

// A bare product is written in the order that its reader wants, and under its shape.
// CHECK-LABEL: cudnn.graph @c0(
// CHECK: cudnn.matmul {{.*}} -> !cudnn.tensor<[1, 4, 6], strides [24, 1, 4], f32>
// CHECK-LABEL: func.func @written
// CHECK-NEXT: cudnn.execute @c0(%x, %w) : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<2x12xf32>
// CHECK-NEXT: func.return
func.func @written(%x: tensor<4x8xf32>, %w: tensor<8x6xf32>) -> tensor<2x12xf32> {
  %p = hamkaas.matmul %x, %w : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
  %t = hamkaas.permute %p axes [1, 0] : (tensor<4x6xf32>) -> tensor<6x4xf32>
  %r = hamkaas.reshape %t : (tensor<6x4xf32>) -> tensor<2x12xf32>
  func.return %r : tensor<2x12xf32>
}

// -----

// With an epilogue it is not: an engine does not mix rows and columns.
// CHECK-LABEL: func.func @epilogue
// CHECK-NEXT: [[P:%.*]] = cudnn.execute @c0(%x, %w)
// CHECK-NEXT: hamkaas.permute [[P]]
func.func @epilogue(%x: tensor<4x8xf32>, %w: tensor<8x6xf32>) -> tensor<6x4xf32> {
  %p = hamkaas.matmul %x, %w : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
  %s = hamkaas.silu %p : (tensor<4x6xf32>) -> tensor<4x6xf32>
  %t = hamkaas.permute %s axes [1, 0] : (tensor<4x6xf32>) -> tensor<6x4xf32>
  func.return %t : tensor<6x4xf32>
}
