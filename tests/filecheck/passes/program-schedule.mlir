// RUN: hamkaas-opt %s -p program-schedule --split-input-file | filecheck %s

// Results that are returned are written where the caller gets them, others into temporaries.
// CHECK-LABEL: program.func @chain
// CHECK-NEXT: %x = program.input "x" : memref<4xf32>
// CHECK-NEXT: [[T:%.*]] = program.temp : memref<4xf32>
// CHECK-NEXT: [[O:%.*]] = program.output 0 : memref<4xf32>
// CHECK-NEXT: program.launch @relu(%x, [[T]])
// CHECK-NEXT: program.launch @relu([[T]], [[O]])
kernel.func @relu(%x: memref<4xf32>, %out: memref<4xf32>) attributes {grid = 1 : i64, block = 1 : i64, inputs = 1 : i64, results = array<i64: 1>} {
  kernel.return
}
func.func @chain(%x: tensor<4xf32> {hamkaas.name = "x"}) -> tensor<4xf32> {
  %0 = hamkaas.execute @relu(%x) : (tensor<4xf32>) -> tensor<4xf32>
  %1 = hamkaas.execute @relu(%0) : (tensor<4xf32>) -> tensor<4xf32>
  func.return %1 : tensor<4xf32>
}

// -----

kernel.func @update(%k: memref<4xf32>, %x: memref<1xf32>) attributes {grid = 1 : i64, block = 1 : i64, inputs = 2 : i64, results = array<i64: 0>} {
  kernel.return
}
hamkaas.state @k : tensor<4xf32>

// Nobody reads the old value afterwards, and the state's next value is this one: in place, and nothing to store.
// CHECK-LABEL: program.func @in_place
// CHECK: program.launch @update(%old, %x)
// CHECK-NOT: program.copy
// CHECK: }
func.func @in_place(%x: tensor<1xf32>) {
  %old = hamkaas.get @k : tensor<4xf32>
  %new = hamkaas.execute @update(%old, %x) : (tensor<4xf32>, tensor<1xf32>) -> tensor<4xf32>
  hamkaas.set @k, %new : tensor<4xf32>
  func.return
}

// The old value is returned, so it is copied before the update, and the new one is stored at the end.
// CHECK-LABEL: program.func @old_value_is_read
// CHECK: program.copy %old to [[C:%.*]] : memref<4xf32>
// CHECK-NEXT: program.launch @update([[C]], %x)
// CHECK-NEXT: program.copy %old to {{.*}}
// CHECK-NEXT: program.copy [[C]] to %old
func.func @old_value_is_read(%x: tensor<1xf32>) -> tensor<4xf32> {
  %old = hamkaas.get @k : tensor<4xf32>
  %new = hamkaas.execute @update(%old, %x) : (tensor<4xf32>, tensor<1xf32>) -> tensor<4xf32>
  hamkaas.set @k, %new : tensor<4xf32>
  func.return %old : tensor<4xf32>
}

// The state keeps its value: what is computed from it is a copy.
// CHECK-LABEL: program.func @not_stored
// CHECK: program.copy %old to [[C:%.*]] : memref<4xf32>
// CHECK-NEXT: program.launch @update([[C]], %x)
func.func @not_stored(%x: tensor<1xf32>) -> tensor<4xf32> {
  %old = hamkaas.get @k : tensor<4xf32>
  %new = hamkaas.execute @update(%old, %x) : (tensor<4xf32>, tensor<1xf32>) -> tensor<4xf32>
  func.return %new : tensor<4xf32>
}

// -----

// An index that is an input is checked by the host; one that a kernel computes is not.
kernel.func @rows(%t: memref<8xf32>, %i: memref<1xi64>, %out: memref<2xf32>, %status: memref<1xi64>) attributes {grid = 1 : i64, block = 1 : i64, inputs = 2 : i64, results = array<i64: 2>, bounds = [#kernel.bound<1 in 0 to 3 fault 2>], status = 1 : i64} {
  kernel.return
}
// CHECK-LABEL: program.func @checked
// CHECK: program.check %i from 0 to 3 for "index of hamkaas.gather"
// CHECK-NEXT: program.launch @rows(%t, %i, {{.*}}, %status)
func.func @checked(%t: tensor<4x2xf32>, %i: tensor<1xi64>) -> tensor<1x2xf32> {
  %0 = hamkaas.execute @rows(%t, %i) : (tensor<4x2xf32>, tensor<1xi64>) -> tensor<1x2xf32>
  func.return %0 : tensor<1x2xf32>
}

// -----

// Two states that change places are moved through a copy.
hamkaas.state @a : tensor<4xf32>
hamkaas.state @b : tensor<4xf32>
// CHECK-LABEL: program.func @swap
// CHECK: program.copy %b to [[B:%.*]] : memref<4xf32>
// CHECK-NEXT: program.copy %a to [[A:%.*]] : memref<4xf32>
// CHECK-NEXT: program.copy [[B]] to %a
// CHECK-NEXT: program.copy [[A]] to %b
func.func @swap() {
  %a = hamkaas.get @a : tensor<4xf32>
  %b = hamkaas.get @b : tensor<4xf32>
  hamkaas.set @a, %b : tensor<4xf32>
  hamkaas.set @b, %a : tensor<4xf32>
  func.return
}

// -----

// One kernel updates two states: both in place.
kernel.func @both(%x: memref<1xf32>, %a: memref<4xf32>, %b: memref<4xf32>) attributes {grid = 1 : i64, block = 1 : i64, inputs = 3 : i64, results = array<i64: 1, 2>} {
  kernel.return
}
hamkaas.state @a : tensor<4xf32>
hamkaas.state @b : tensor<4xf32>
// CHECK-LABEL: program.func @two_updates
// CHECK-NOT: program.copy
// CHECK: program.launch @both(%x, %a, %b)
// CHECK-NOT: program.copy
func.func @two_updates(%x: tensor<1xf32>) {
  %a = hamkaas.get @a : tensor<4xf32>
  %b = hamkaas.get @b : tensor<4xf32>
  %0, %1 = hamkaas.execute @both(%x, %a, %b) : (tensor<1xf32>, tensor<4xf32>, tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
  hamkaas.set @a, %0 : tensor<4xf32>
  hamkaas.set @b, %1 : tensor<4xf32>
  func.return
}
