// RUN: hamkaas-opt %s -p 'cudnn-assign-plans{plans="c5f7945af812fc371ade332ea66129c24c38c263f61e4d2f2552ca5b9bad15cc:eng1_k24=3:4096"}' | filecheck %s

// The plan of the graph with this fingerprint, whatever its name; other graphs keep what they have.
// CHECK: cudnn.graph @relu
// CHECK-SAME: plan = "eng1_k24=3", workspace = 4096 : i64
// CHECK: cudnn.graph @silu
// CHECK-NOT: plan
cudnn.graph @relu(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %y = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %y : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}
cudnn.graph @silu(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32> attributes {io = f32, compute = f32} {
  %y = cudnn.pointwise silu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>) -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
  cudnn.yield %y : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
}
