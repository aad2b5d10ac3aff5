// RUN: hamkaas-opt %s -t cuda | filecheck %s
// RUN: hamkaas-opt %s -t plan | filecheck %s --check-prefix=PLAN

// A kernel that is launched outside too stays a kernel; the others become stages only.
// CHECK: struct Step {
// CHECK: if (!slot.waits) return;
// CHECK-NEXT: slot.waits = false;
// CHECK: ld.acquire.gpu
// CHECK-NEXT: } while (found != slot.expected);
// CHECK-NEXT: }
// CHECK-NEXT: meet<threads>(slot);
// CHECK: red.release.gpu
// CHECK: void __launch_bounds__(128) scale(
// CHECK: griddepcontrol.wait
// CHECK-NOT: __global__

// The weight is read before the wait, into a register; shared memory is a piece of what the caller gives; the barrier is
// that of the slot; nobody tells the next launch to start.
// CHECK: // scale: one of 2 blocks of 128 threads
// CHECK-NEXT: __device__ __forceinline__ void scale_stage(
// CHECK-NEXT: Slot& slot,
// CHECK-NEXT: const int block_number,
// CHECK-NEXT: unsigned char* memory,
// CHECK-NEXT: const float* x,
// CHECK-NEXT: const float* w,
// CHECK-NEXT: float* out) {
// CHECK-NEXT: float* const shared = reinterpret_cast<float*>(memory);
// CHECK-NEXT: float* const shared_1 = reinterpret_cast<float*>(memory + 16);
// CHECK-NEXT: const int block = block_number;
// CHECK-NEXT: const int thread = static_cast<int>(threadIdx.x % 128);
// CHECK: const float v_2 = w[v_1];
// CHECK-NEXT: wait_for_step<128>(slot);
// CHECK-NEXT: const float v_3 = x[v_1];
// CHECK: meet<128>(slot);
// CHECK-NOT: griddepcontrol

// The wait stands on one side of a branch on the number of the block: blocks that take the other side wait at the end.
// CHECK-LABEL: void side_stage(
// CHECK: if (v) {
// CHECK-NEXT: wait_for_step<256>(slot);
// CHECK-NEXT: out[0] = 1.0f;
// CHECK-NEXT: }
// CHECK-NEXT: wait_for_step<256>(slot);
// CHECK-NEXT: }

// The wait stands in a branch on the number of the thread: all threads wait before it, and nobody in it.
// CHECK-LABEL: void some_stage(
// CHECK: float* out) {
// CHECK-NEXT: wait_for_step<32>(slot);
// CHECK: if (v) {
// CHECK-NEXT: out[0] = 1.0f;
// CHECK-NEXT: }
// CHECK-NEXT: }

// CHECK: // 5 launches of 3 kernels, by blocks that stay
// CHECK-NEXT: extern "C" __global__ void __launch_bounds__(256, 2) persistent0(
// CHECK-NEXT: const Step<3>* table,
// CHECK-NEXT: unsigned* counters)
// CHECK-NEXT: __shared__ Step<3> steps[5];
// Two slots of 528 bytes.
// CHECK-NEXT: __shared__ __align__(16) unsigned char memory[1056];
// CHECK: const unsigned run = counters[5 + blockIdx.x] + 1;
// CHECK: for (int number = 0; number < 5; ++number) {
// CHECK: if (first >= grid) continue;
// CHECK: case 0:
// CHECK-NEXT: slot.number = threadIdx.x / 128;
// CHECK-NEXT: for (int block = first + slot.number * width, next; block < grid; block = next) {
// CHECK-NEXT: next = block + 2 * width;
// CHECK-NEXT: scale_stage(
// CHECK-NEXT: slot,
// CHECK-NEXT: block,
// CHECK-NEXT: memory + slot.number * 528,
// CHECK-NEXT: global<const float>(step.buffers[0]),
// CHECK-NEXT: global<const float>(step.buffers[1]),
// CHECK-NEXT: global<float>(step.buffers[2]));
// CHECK-NEXT: if (next < grid) meet<128>(slot);
// CHECK: case 1:
// CHECK-NEXT: for (int block = first, next; block < grid; block = next) {
// CHECK-NEXT: next = block + width;
// CHECK-NEXT: side_stage(
// CHECK-NEXT: slot,
// CHECK-NEXT: block,
// CHECK-NEXT: nullptr,
// CHECK: case 2:
// CHECK-NEXT: slot.number = threadIdx.x / 32;
// CHECK-NEXT: for (int block = first + slot.number * width, next; block < grid; block = next) {
// CHECK-NEXT: next = block + 8 * width;
// CHECK: __syncthreads();
// CHECK-NEXT: if (threadIdx.x == 0) end_part(&counters[number]);
// CHECK-NEXT: }
// CHECK-NEXT: if (threadIdx.x == 0) counters[5 + blockIdx.x] = run;

// PLAN: program main: 6 launches of 3 kernels
// PLAN: persistent0: blocks of 256 threads that stay
// PLAN-NEXT: {{^}}      scale      2 x 128  scale {{ *}}(x, w, arena+0)
// PLAN-NEXT: {{^}}    | side       2 x 256
// PLAN-NEXT: {{^}}      some       1 x 32
// PLAN-NEXT: {{^}}      scale
// PLAN-NEXT: {{^}}      some
// PLAN-NEXT: {{^}}  | scale
kernel.func @scale(%x: memref<256xf32>, %w: memref<256xf32>, %out: memref<256xf32>) attributes {grid = 2 : i64, block = 128 : i64, inputs = 2 : i64, results = array<i64: 2>, label = "scale", constants = array<i64: 1>} {
  kernel.launch_dependents
  %5 = kernel.alloc : memref<1xf32, #kernel<space shared>>
  %0 = kernel.alloc : memref<128xf32, #kernel<space shared>>
  %block = kernel.block_id
  %thread = kernel.thread_id
  %c128 = arith.constant 128 : index
  %1 = arith.muli %block, %c128 : index
  %2 = arith.addi %1, %thread : index
  %3 = kernel.load %w[%2] : memref<256xf32> -> f32
  kernel.wait_dependency
  %4 = kernel.load %x[%2] : memref<256xf32> -> f32
  %6 = arith.mulf %3, %4 : f32
  kernel.store %6, %0[%thread] : f32, memref<128xf32, #kernel<space shared>>
  kernel.barrier
  kernel.store %6, %out[%2] : f32, memref<256xf32>
  kernel.return
}
kernel.func @side(%out: memref<1xf32>) attributes {grid = 2 : i64, block = 256 : i64, inputs = 0 : i64, results = array<i64: 0>, constants = array<i64>} {
  kernel.launch_dependents
  %c0 = arith.constant 0 : index
  %one = arith.constant 1.0 : f32
  %block = kernel.block_id
  %0 = arith.cmpi eq, %block, %c0 : index
  scf.if %0 {
    kernel.wait_dependency
    kernel.store %one, %out[%c0] : f32, memref<1xf32>
  }
  kernel.return
}
kernel.func @some(%out: memref<1xf32>) attributes {grid = 1 : i64, block = 32 : i64, inputs = 0 : i64, results = array<i64: 0>, constants = array<i64>} {
  kernel.launch_dependents
  %c0 = arith.constant 0 : index
  %one = arith.constant 1.0 : f32
  %thread = kernel.thread_id
  %0 = arith.cmpi eq, %thread, %c0 : index
  scf.if %0 {
    kernel.wait_dependency
    kernel.store %one, %out[%c0] : f32, memref<1xf32>
  }
  kernel.wait_dependency
  kernel.return
}
hamkaas.weight @w : tensor<256xf32>
program.func @main {
  %x = program.input "x" : memref<256xf32>
  %w = program.symbol @w : memref<256xf32>
  %t = program.temp at 0 : memref<256xf32>
  %s = program.temp at 1024 : memref<1xf32>
  %y = program.output 0 : memref<256xf32>
  program.persistent @persistent0 block 256 {
    program.launch @scale(%x, %w, %t) : memref<256xf32>, memref<256xf32>, memref<256xf32>
    program.barrier
    program.launch @side(%s) : memref<1xf32>
    program.launch @some(%s) : memref<1xf32>
    program.launch @scale(%t, %w, %x) : memref<256xf32>, memref<256xf32>, memref<256xf32>
    program.launch @some(%s) : memref<1xf32>
  }
  program.barrier
  program.launch @scale(%t, %w, %y) : memref<256xf32>, memref<256xf32>, memref<256xf32>
}
