// RUN: hamkaas-opt %s -p 'cudnn-assign-plans{plans="e442b36bd19187fe3b2d1e7e6ac91396545af3036d238a108b1717d1abcd87e5:eng1_k24=3:4096"}' | filecheck %s

// The plan of the graph with this fingerprint, whatever its name; other graphs keep what they have.
// CHECK: cudnn.graph @relu
// CHECK-SAME: plan = "eng1_k24=3", workspace = 4096 : i64
// CHECK: cudnn.graph @silu
// CHECK-NOT: plan
cudnn.graph @relu(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, intermediate = f32, compute = f32} {
  %y = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %y : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}
cudnn.graph @silu(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, intermediate = f32, compute = f32} {
  %y = cudnn.pointwise silu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %y : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}
