// RUN: hamkaas-opt %s -p cudnn-dedup --remarks 2>&1 | filecheck %s

// @a and @b are equal but for names. One thing is another in the rest: @c a stride (rows with padding between them),
// @d a dim, @e a kind, @f the order of operands, @g the order in which the output is written.
// CHECK: remark: cudnn-dedup: cudnn.graph: 6 of 7 are distinct
// CHECK-COUNT-6: cudnn.graph
// CHECK-NOT: cudnn.graph
cudnn.graph @a(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, %y: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %0 = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  %1 = cudnn.pointwise add %0, %y : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %1 : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}
cudnn.graph @b(%p: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, %q: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %r = cudnn.pointwise relu %p : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  %s = cudnn.pointwise add %r, %q : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %s : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}
cudnn.graph @c(%x: !cudnn.tensor<[1, 4, 8], strides [64, 16, 1], f32>, %y: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %0 = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [64, 16, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  %1 = cudnn.pointwise add %0, %y : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %1 : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}
cudnn.graph @d(%x: !cudnn.tensor<[1, 4, 9], strides [36, 9, 1], f32>, %y: !cudnn.tensor<[1, 4, 9], strides [36, 9, 1], f32>) -> !cudnn.tensor<[1, 4, 9], strides [36, 9, 1], f32> attributes {io = f32, compute = f32} {
  %0 = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 9], strides [36, 9, 1], f32>) -> !cudnn.tensor<[1, 4, 9], strides [36, 9, 1], f32>
  %1 = cudnn.pointwise add %0, %y : (!cudnn.tensor<[1, 4, 9], strides [36, 9, 1], f32>, !cudnn.tensor<[1, 4, 9], strides [36, 9, 1], f32>) -> !cudnn.tensor<[1, 4, 9], strides [36, 9, 1], f32>
  cudnn.yield %1 : !cudnn.tensor<[1, 4, 9], strides [36, 9, 1], f32>
}
cudnn.graph @e(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, %y: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %0 = cudnn.pointwise silu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  %1 = cudnn.pointwise add %0, %y : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %1 : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}
cudnn.graph @f(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, %y: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %0 = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  %1 = cudnn.pointwise add %y, %0 : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %1 : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}
cudnn.graph @g(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, %y: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 1, 4], f32> attributes {io = f32, compute = f32} {
  %0 = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  %1 = cudnn.pointwise add %0, %y : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 1, 4], f32>
  cudnn.yield %1 : !cudnn.tensor<[1, 4, 8], strides [32, 1, 4], f32>
}
// CHECK-LABEL: func.func @main
// CHECK-NEXT: cudnn.execute @c0(
// CHECK-NEXT: cudnn.execute @c0(
// CHECK-NEXT: cudnn.execute @c1(
// CHECK-NEXT: cudnn.execute @c2(
// CHECK-NEXT: cudnn.execute @c3(
// CHECK-NEXT: cudnn.execute @c4(
// CHECK-NEXT: cudnn.execute @c5(
func.func @main(%x: tensor<4x8xf32>, %p: tensor<4x16xf32>, %z: tensor<4x9xf32>) {
  %a1 = cudnn.execute @a(%x, %x) : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
  %b1 = cudnn.execute @b(%x, %x) : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
  %c1 = cudnn.execute @c(%p, %x) : (tensor<4x16xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
  %d1 = cudnn.execute @d(%z, %z) : (tensor<4x9xf32>, tensor<4x9xf32>) -> tensor<4x9xf32>
  %e1 = cudnn.execute @e(%x, %x) : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
  %f1 = cudnn.execute @f(%x, %x) : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
  %g1 = cudnn.execute @g(%x, %x) : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<8x4xf32>
  func.return
}
