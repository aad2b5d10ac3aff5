// RUN: hamkaas-opt %s -t llvm | filecheck %s

// A kernel is a body, whose parameters say what is known of the buffers, and a loop over a range of blocks.

kernel.func @copy(%x: memref<256xf32>, %y: memref<256xf32>)
    attributes {grid = 2 : i64, block = 1 : i64, inputs = 1 : i64, results = array<i64: 1>, label = "add relu"} {
  %block = kernel.block_id
  %thread = kernel.thread_id
  %scratch = kernel.alloc : memref<32xf32, #kernel<space shared>>
  %v = kernel.load %x[%block] cache stream : memref<256xf32> -> f32
  kernel.store %v, %scratch[%thread] : f32, memref<32xf32, #kernel<space shared>>
  kernel.barrier
  %w = kernel.load %scratch[%thread] align 16 : memref<32xf32, #kernel<space shared>> -> vector<4xf32>
  kernel.store %w, %y[%block] : vector<4xf32>, memref<256xf32>
  kernel.return
}

// Only %y is written.
// CHECK:       ; add relu
// CHECK-NEXT:  define internal void @copy.body(i64 %block, ptr noalias nonnull noundef readonly align 4 dereferenceable(1024) [[X:%[a-z0-9.]+]], ptr noalias nonnull noundef align 4 dereferenceable(1024) [[Y:%[a-z0-9.]+]]) nounwind {
// CHECK-NEXT:  entry:
// CHECK-NEXT:    [[S:%[a-z0-9.]+]] = alloca [32 x float], align 64

// The alignment is that of an element where none is given, for vectors too.
// CHECK-NEXT:    [[AT:%[a-z0-9.]+]] = getelementptr inbounds float, ptr [[X]], i64 %block
// CHECK-NEXT:    [[V:%[a-z0-9.]+]] = load float, ptr [[AT]], align 4
// CHECK-NEXT:    [[AT:%[a-z0-9.]+]] = getelementptr inbounds float, ptr [[S]], i64 0
// CHECK-NEXT:    store float [[V]], ptr [[AT]], align 4
// CHECK-NEXT:    [[AT:%[a-z0-9.]+]] = getelementptr inbounds float, ptr [[S]], i64 0
// CHECK-NEXT:    [[W:%[a-z0-9.]+]] = load <4 x float>, ptr [[AT]], align 16
// CHECK-NEXT:    [[AT:%[a-z0-9.]+]] = getelementptr inbounds float, ptr [[Y]], i64 %block
// CHECK-NEXT:    store <4 x float> [[W]], ptr [[AT]], align 4
// CHECK-NEXT:    ret void

// CHECK:       define void @copy(i64 %begin, i64 %end, ptr %args) nounwind {
// CHECK:         %arg.1 = load ptr, ptr %at.1, align 8
// CHECK:         %block = phi i64 [ %begin, %entry ], [ %next, %body ]
// CHECK:         call void @copy.body(i64 %block, ptr %arg.0, ptr %arg.1)
