// RUN: hamkaas-opt %s -t llvm | filecheck %s

// Carried values are phis; what a nested region yields arrives from the block in which that region ends.

kernel.func @sum(%x: memref<8xf32>, %y: memref<1xf32>)
    attributes {grid = 1 : i64, block = 1 : i64, inputs = 1 : i64, results = array<i64: 1>} {
  %low = arith.constant 0 : index
  %high = arith.constant 8 : index
  %step = arith.constant 1 : index
  %zero = arith.constant 0.0 : f32
  %total = scf.for %i = %low to %high step %step iter_args(%sum = %zero) -> (f32) {
    %v = kernel.load %x[%i] : memref<8xf32> -> f32
    %positive = arith.cmpf ogt, %v, %zero : f32
    %next = scf.if %positive -> (f32) {
      %more = arith.addf %sum, %v : f32
      scf.yield %more : f32
    } else {
      scf.yield %sum : f32
    }
    scf.yield %next : f32
  }
  kernel.store %total, %y[%low] : f32, memref<1xf32>
  kernel.return
}

// CHECK-LABEL: @sum.body
// CHECK:         br label %[[HEAD:.*]]
// CHECK-NEXT:  [[HEAD]]:
// CHECK-NEXT:    [[I:%i[.0-9]+]] = phi i64 [ 0, %entry ], [ [[J:%[a-z.0-9]+]], %[[MERGE:.*]] ]
// CHECK-NEXT:    [[SUM:%sum[.0-9]+]] = phi float [ 0x0000000000000000, %entry ], [ [[NEXT:%next[.0-9]+]], %[[MERGE]] ]
// CHECK-NEXT:    [[MORE:%.*]] = icmp slt i64 [[I]], 8
// CHECK-NEXT:    br i1 [[MORE]], label %[[BODY:.*]], label %[[END:.*]]
// CHECK-NEXT:  [[BODY]]:
// CHECK:         [[POSITIVE:%.*]] = fcmp ogt float [[V:%.*]], 0x0000000000000000
// CHECK-NEXT:    br i1 [[POSITIVE]], label %[[THEN:.*]], label %[[ELSE:.*]]
// CHECK-NEXT:  [[THEN]]:
// CHECK-NEXT:    [[ADDED:%.*]] = fadd float [[SUM]], [[V]]
// CHECK-NEXT:    br label %[[MERGE]]
// CHECK-NEXT:  [[ELSE]]:
// CHECK-NEXT:    br label %[[MERGE]]
// CHECK-NEXT:  [[MERGE]]:
// CHECK-NEXT:    [[NEXT]] = phi float [ [[ADDED]], %[[THEN]] ], [ [[SUM]], %[[ELSE]] ]
// CHECK-NEXT:    [[J]] = add nsw i64 [[I]], 1
// CHECK-NEXT:    br label %[[HEAD]]
// CHECK-NEXT:  [[END]]:
// CHECK-NEXT:    [[AT:%.*]] = getelementptr inbounds float, ptr %{{.*}}, i64 0
// CHECK-NEXT:    store float [[SUM]], ptr [[AT]], align 4
